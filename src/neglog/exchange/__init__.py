"""Results as other libraries take them."""
