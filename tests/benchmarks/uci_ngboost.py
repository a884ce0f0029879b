"""Scores of NGBoost on the splits of `make uci`, stored in uci_ngboost.json; hours of processor time.

    python -m venv ngboost && ngboost/bin/pip install ngboost==0.6.0
    ngboost/bin/python tests/benchmarks/uci_ngboost.py [TABLE ...]

Normal distributions by regression trees of depth 3, the default, with the default learning rate of 0.01 and
at most 2000 trees for each parameter; above 5000 rows 0.05 and 600, which take a fifth of the time. The
validation rows choose the number of trees, with a patience of 50. Splits that the file has already are not
run again.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
from ngboost import NGBRegressor
from scipy.stats import norm
from uci_tables import SPLITS, TABLES, Split, read, split

SCORES = Path(os.environ.get("UCI_NGBOOST", Path(__file__).with_suffix(".json")))
PATIENCE = 50
MANY_ROWS = 5000


def scores(rows: Split, seed: int) -> dict[str, float]:
    """RMSE, negative log score and CRPS of the test rows, in units of y, and the seconds of the fit."""
    rate, most = (0.05, 600) if len(rows.train[1]) > MANY_ROWS else (0.01, 2000)
    start = time.process_time()
    model = NGBRegressor(
        n_estimators=most,
        learning_rate=rate,
        random_state=seed,
        verbose=False,
        early_stopping_rounds=PATIENCE,
    )
    model.fit(*rows.train, *rows.validation)
    seconds = time.process_time() - start
    x, y = rows.test
    found = model.pred_dist(x, max_iter=model.best_val_loss_itr)
    mean, sd = found.params["loc"], found.params["scale"]
    z = (y - mean) / sd
    crps = sd * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))
    return {
        "rmse": rows.unit * float(np.sqrt(np.mean((y - mean) ** 2))),
        "nll": float(np.log(rows.unit) - norm.logpdf(y, mean, sd).mean()),
        "crps": rows.unit * float(crps.mean()),
        "seconds": seconds,
        "trees": int(model.best_val_loss_itr or most),
    }


def main() -> None:
    """Add what the file lacks, split by split."""
    stored = json.loads(SCORES.read_text()) if SCORES.exists() else {}
    for seed in range(SPLITS):
        for name in sys.argv[1:] or TABLES:
            own = stored.setdefault(name, {})
            if str(seed) not in own:
                own[str(seed)] = scores(split(read(name), seed), seed)
                SCORES.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
