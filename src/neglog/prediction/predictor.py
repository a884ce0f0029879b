"""Values that predict in the place of the fit that they come from, and read new rows as it does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from neglog.bayes.sampling import Posterior
from neglog.designs import Columns
from neglog.fitting.ensembles import Ensemble
from neglog.fitting.fit import Fit
from neglog.handlers import Model
from neglog.inputs.blueprint import Blueprint


class Predictor(ABC):
    """A value made from a fit, with predictive distributions of its own.

    `neglog.predict`, `quantile`, `scores`, `class_probabilities` and all that needs a predictive distribution
    alone take it in the place of the fit. A subclass has the attribute `fit`, and the method `predict`.
    """

    fit: Any

    @abstractmethod
    def predict(self, x: Any, **keywords: Any) -> Any:
        """The predictive distribution of `y` given `x`, of batch shape `(N,)`."""

    @property
    def model(self) -> Model:
        """The model of the fit."""
        return self.fit.model

    @property
    def columns(self) -> Columns:
        """The names of the design columns of the fit."""
        return self.fit.columns

    @property
    def keywords(self) -> tuple[str, ...]:
        """The names of the row-wise arguments of the fit."""
        return tuple(self.fit.keywords)

    @property
    def blueprint(self) -> Blueprint | None:
        """What the fit learned of the table of a formula; None without."""
        return self.fit.blueprint

    @property
    def classes(self) -> tuple[Any, ...]:
        """The labels of the classes of the response; none of numbers."""
        return self.fit.classes


Predicting = Fit | Posterior | Ensemble | Predictor
"""What has a predictive distribution for new rows."""
