"""Parameters of a torch module as parameters of an estimator."""

from __future__ import annotations

from typing import Any

PREFIX = "module__"


class ModuleParams:
    """Parameters with the prefix ``module__``, kept in one dict.

    `get_params` returns them and `set_params` takes them, so that ``clone``, searches and pipelines
    treat them as any other. The dict is made with the first of them, since an estimator without
    such parameters has no attributes but its own.
    """

    module: Any

    def _keep_module_params(self, params: dict[str, Any]) -> None:
        """Take what a constructor was given beyond its own parameters."""
        if params:
            self._module_params = {**self._own_module_params(), **params}

    def _own_module_params(self) -> dict[str, Any]:
        return getattr(self, "_module_params", {})

    def get_params(self, deep=True):
        """Get the parameters, those of the module included.

        Parameters
        ----------
        deep : bool, default=True
            Whether to return the parameters of method and prior objects too.

        Returns
        -------
        dict
            Values by name.
        """
        return {**super().get_params(deep=deep), **self._own_module_params()}  # type: ignore[misc]

    def set_params(self, **params):
        """Set parameters, also ``module__`` ones and those of method and prior objects.

        Parameters
        ----------
        **params : dict
            Parameters by name. What the module's class takes is known when it is called, in `fit`.

        Returns
        -------
        self : object
            The estimator.

        Raises
        ------
        ValueError
            If a parameter is not known, or belongs to a method or prior that is a string.
        """
        own = self._own_module_params()
        mine = {k: value for k, value in params.items() if k.startswith(PREFIX) or k in own}
        super().set_params(**{k: v for k, v in params.items() if k not in mine})  # type: ignore[misc]
        self._keep_module_params(mine)
        return self
