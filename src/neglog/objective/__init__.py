"""The one waist: a model and its data as a function of one vector, and the coordinates it is solved in."""
