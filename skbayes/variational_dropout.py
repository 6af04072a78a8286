"""Networks with dropout rates that are learned, and that prune themselves."""

from __future__ import annotations

from typing import Any

import numpy as np

from skbayes.base_classifier import BayesianClassifier
from skbayes.base_regressor import BayesianRegressor
from skbayes.inference.variational_dropout import VariationalDropout
from skbayes.mlp import _MLPMixin
from skbayes.model.improper_priors import FlatPrior
from skbayes.pruned import PrunedMixin
from skbayes.torch_module import BayesianModuleClassifier, _ModuleMixin

_OWN = tuple(VariationalDropout().get_params(deep=False))


class _VariationalDropout(PrunedMixin, _ModuleMixin, _MLPMixin):
    """What both estimators share: the network, the run, and pruning."""

    prior = None
    n_jobs = None
    warm_start = False

    hidden_layer_sizes: Any
    threshold: Any

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = self.module is None
        tags.input_tags.three_d_array = self.module is not None
        return tags

    @property
    def _network_kind(self) -> type:
        return _MLPMixin if self.module is None else _ModuleMixin

    @property
    def _x_checks(self) -> dict[str, Any]:  # type: ignore[override]
        return {"accept_sparse": "csr"} if self.module is None else _ModuleMixin._x_checks

    @property
    def method(self) -> VariationalDropout:
        """The parameters of the run."""
        return VariationalDropout(**{name: getattr(self, name) for name in _OWN})

    # ---------------------------------------------------------------- the network

    def _check_model(self) -> None:
        if self.module is None:
            _MLPMixin._check_model(self)
            own = self._own_module_params()
            if own:
                raise ValueError(f"{next(iter(own))} is not allowed with module=None.")
            if self.callbacks is not None:
                from skbayes.callbacks import check_callbacks

                check_callbacks(self.callbacks)
        else:
            _ModuleMixin._check_model(self)

    def _make_network(self, inside, seed, fitted=True) -> Any:
        return self._network_kind._make_network(self, inside, seed, fitted)  # type: ignore[attr-defined]

    def _make_scaler(self):
        return self._network_kind._make_scaler(self)  # type: ignore[attr-defined]

    def _make_inputs(self, inside, network, *, dtype, device):
        make = self._network_kind._make_inputs  # type: ignore[attr-defined]
        return make(self, inside, network, dtype=dtype, device=device)

    def _bind_prior(self, prior, network, inside, weight):
        return FlatPrior().build(network)  # the weights' own is part of the family

    # -------------------------------------------------------------------- fitting

    def fit(self, X, y=None, sample_weight=None, checkpoint=None):
        """Train the network and its dropout rates, and prune it at ``threshold``.

        Parameters
        ----------
        X : {array-like, CSR matrix, torch Dataset} of shape (n_samples, n_features)
            Training rows; with a ``module`` dense, of any shape (n_samples, ...).
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), optional
            Targets; None with a ``Dataset``, which has its own.
        sample_weight : array-like of shape (n_samples,), optional
            Weights of the rows. A row of weight 2 counts as two equal rows.
        checkpoint : str or path-like, optional
            Folder in which the training is kept after epochs, about every half minute, made where
            it does not exist. The same fit (data, parameters, version) goes on from there if it
            was stopped, even killed; any other fit has its own place in the folder. Needs an
            integer ``random_state``.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter or the data are not allowed; the message names what is.
        """
        return super().fit(X, y, sample_weight, checkpoint)

    def _store(self, posterior, inside, seed):
        super()._store(posterior, inside, seed)
        adapted: dict[str, Any] = posterior.adapted
        self.log_alpha_: dict[str, np.ndarray] = adapted["log_alpha"]
        self.sparsity_curve_: dict[str, np.ndarray] = adapted["sparsity_curve"]
        self._draws = posterior.draws
        self.prune(self.threshold)


class VariationalDropoutClassifier(_VariationalDropout, BayesianClassifier):
    r"""Classifier whose network learns its own dropout rates, and prunes itself.

    Every weight is multiplied by noise (or, in other words, has a normal posterior), whose size is
    learned. With a prior that is the same on all scales, :math:`p(\log |w|) = \text{const}`, the
    evidence lower bound

    .. math:: \mathbb{E}_q \sum_i \log p(y_i \mid x_i, w) - \text{KL}(q \,\|\, p), \qquad
              q(w) = N(\mu, \alpha \mu^2)

    lets the alpha of weights that the data do not need grow without limit: these are removed.
    Outputs are drawn instead of weights (the local reparameterisation trick, Kingma, Salimans and
    Welling, 2015). In training every row has noise of its own; predictions average over
    ``n_draws`` draws of the weights. Biases, and what is not of a linear or convolution layer, are
    points without a prior.

    - ``kind="gaussian"`` and ``"variational"``: Kingma, Salimans and Welling (2015), see
      `skbayes.layers.dropout_families.UnitDropout`.
    - ``kind="sparse"``: Molchanov, Ashukha and Vetrov (2017), see
      `skbayes.layers.dropout_families.SparseDropout`.
    - ``kind="group"``: Louizos, Ullrich and Welling (2017), see
      `skbayes.layers.dropout_families.GroupDropout` and `HorseshoeDropout` there.

    The log-uniform prior is improper, so that there is no evidence, and no `sample_prior`. The loop
    is the package's own: skorch's costs several times as much per step on small networks.

    Parameters
    ----------
    hidden_layer_sizes : tuple of int or "auto", default=(50,)
        Units per hidden layer, see `BayesianMLPClassifier`; without a ``module`` only.
    activation : {"identity", "relu", "tanh", "silu", "gelu"}, default="relu"
        Activation of the hidden layers; without a ``module`` only.
    module : type, torch.nn.Module or None, default=None
        A network of one's own instead of a multilayer perceptron, as in
        `BayesianModuleClassifier`. Its linear and convolution layers get noise; all else in it is
        trained as it is.
    kind : {"gaussian", "variational", "sparse", "group"}, default="sparse"
        "gaussian": noise of a fixed rate on all weights. "variational": rates of layers or units,
        learned. "sparse": a rate of every weight. "group": rates of input units of linear layers
        and of output channels of convolutions.
    rate : float, default=0.2
        Dropout rate p of "gaussian", and where "variational" starts: alpha = p / (1 - p). At most
        0.5, which is an alpha of one.
    per : {"layer", "unit"}, default="layer"
        What has a rate of its own in "variational": a layer, or an input unit (channel).
    correlated : bool, default=False
        Whether in "gaussian" and "variational" the weights of an input unit share their noise.
    group_prior : {"normal_jeffreys", "horseshoe"}, default="normal_jeffreys"
        Prior of the factors of groups.
    horseshoe_scale : float, default=1e-5
        Scale of the horseshoe's factor of a whole layer.
    kl : {"molchanov", "exact"}, default="molchanov"
        How the divergence from the log-uniform prior is computed: by an approximation with an
        error below 0.0095, or exactly, which is slower for "sparse".
    init_log_var : float or None, default=None
        Where the logarithms of the variances start, in "sparse" and "group"; None is -10 and -9.
        Too large a value drowns the data in noise from the start.
    max_epochs : int or None, default=None
        Passes over the data; None is as many as 4,000 steps take, at least 50.
    batch_size : int or None, default=None
        Rows per step; None is 128.
    learning_rate : float or None, default=None
        Of Adam, on the bound per row; it falls to zero linearly. None is 120 / steps, at least
        0.001 and at most 0.03, with which the logarithm of a variance can move by about 60.
    kl_warmup : int or float, default=0.3
        Epochs, or share of them, in which the weight of the divergence rises from zero to one.
        Without it, weights are often given up before they have learned anything.
    threshold : float or None, default=None
        Weights, or groups of them, with log alpha at or above it are removed after training; None
        is 3, and found by `fit` for ``kind="group"``. See `prune`.
    n_draws : int, default=30
        Draws of the weights that predictions average over.
    standardize : {True, False, "X", "arcsinh"}, default=True
        Whether the columns of X are brought to mean zero and deviation one (True, "X"), and those
        with heavy tails are bent, as `BayesianMLPClassifier` does ("arcsinh").
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, as if there were more rows of them.
    callbacks : list of skorch callbacks or None, default=None
        Called as in skorch at the beginning and end of the fit and of every epoch, see
        `BayesianModuleClassifier`.
    device : {"cpu", "cuda", "auto"}, default="cpu"
        Where to compute.
    dtype : {"float32", "float64"}, default="float32"
        Float type of the training; predictions are always in float64.
    random_state : int, RandomState instance or None, default=None
        Seed. The same seed gives the same fit.
    verbose : int, default=0
        1 shows a progress bar.
    **module_params : object
        Parameters of the module's class, each with the prefix ``module__``.

    Attributes
    ----------
    log_alpha_ : dict of str to ndarray
        Log of the variance over the squared mean of each weight (factor of a group, layer), by the
        names that the weights have in `to_module`'s uncompressed network, such as "0.weight";
        shapes (n_out, n_in, ...), (n_groups,) or (1,).
    masks_ : dict of str to ndarray of bool
        Weights that are kept.
    threshold_ : float or dict of str to float
        Of log alpha, by which they are kept; a dict if `prune` was given one.
    sparsity_ : dict of str to float
        Share of each weight's entries that is removed; "all" of all of them.
    sparsity_curve_ : dict of str to ndarray of shape (`n_iter_`,)
        The same after every epoch, at ``threshold`` (3 where it is None).
    bit_precision_ : dict of str to int
        Bits that a kept weight of each layer needs, see `skbayes.layers.bits`.
    compression_ratio_ : Compression
        Named tuple: ``pruning``, all weights by those kept, and ``precision``, their bits (32 for
        each weight of the whole network). Biases and the places of the kept weights are not
        counted, see `skbayes.layers.bits.compression_ratio`.
    posterior_ : Posterior
        Draws of the pruned network's weights.
    classes_ : ndarray of shape (n_classes,)
        Labels (for multilabel y, the labels' numbers).
    n_features_in_ : int
        Number of features (length of the second axis of X).
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names, where X had them.
    n_iter_ : int
        Epochs.
    loss_curve_ : ndarray of shape (`n_iter_`,)
        Negative bound per row over the epochs, up to a constant.
    diagnostics_ : dict
        Empty: draws are independent.
    history_ : list of dict
        What callbacks recorded for every epoch; only with ``callbacks``.

    See Also
    --------
    VariationalDropoutRegressor : The same for regression.

    Examples
    --------
    >>> import numpy as np
    >>> from skbayes import VariationalDropoutClassifier
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(300, 10))
    >>> y = X[:, 0] * X[:, 1] > 0  # the other columns say nothing
    >>> clf = VariationalDropoutClassifier(
    ...     (10,), max_epochs=800, batch_size=300, learning_rate=0.005, random_state=0
    ... ).fit(X, y)
    >>> bool(clf.score(X, y) > 0.9)
    True
    >>> [int(used) for used in clf.masks_["0.weight"].any(0)]
    [1, 1, 0, 0, 0, 0, 0, 0, 0, 0]
    """

    def __init__(
        self,
        hidden_layer_sizes=(50,),
        activation="relu",
        *,
        module=None,
        kind="sparse",
        rate=0.2,
        per="layer",
        correlated=False,
        group_prior="normal_jeffreys",
        horseshoe_scale=1e-5,
        kl="molchanov",
        init_log_var=None,
        max_epochs=None,
        batch_size=None,
        learning_rate=None,
        kl_warmup=0.3,
        threshold=None,
        n_draws=30,
        standardize=True,
        class_weight=None,
        callbacks=None,
        device="cpu",
        dtype="float32",
        random_state=None,
        verbose=0,
        **module_params,
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.module = module
        self.kind = kind
        self.rate = rate
        self.per = per
        self.correlated = correlated
        self.group_prior = group_prior
        self.horseshoe_scale = horseshoe_scale
        self.kl = kl
        self.init_log_var = init_log_var
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.kl_warmup = kl_warmup
        self.threshold = threshold
        self.n_draws = n_draws
        self.standardize = standardize
        self.class_weight = class_weight
        self.callbacks = callbacks
        self.device = device
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose
        self._keep_module_params(module_params)

    _module_options = BayesianModuleClassifier._module_options


class VariationalDropoutRegressor(_VariationalDropout, BayesianRegressor):
    r"""Regressor whose network learns its own dropout rates, and prunes itself.

    As `VariationalDropoutClassifier`, with normal noise,

    .. math:: y \mid x, w \sim N(f_w(x), \sigma^2).

    Parameters
    ----------
    hidden_layer_sizes : tuple of int or "auto", default=(50,)
        Units per hidden layer, see `BayesianMLPClassifier`; without a ``module`` only.
    activation : {"identity", "relu", "tanh", "silu", "gelu"}, default="relu"
        Activation of the hidden layers; without a ``module`` only.
    module : type, torch.nn.Module or None, default=None
        A network of one's own instead of a multilayer perceptron, as in
        `BayesianModuleRegressor`. Its linear and convolution layers get noise; all else in it is
        trained as it is.
    kind : {"gaussian", "variational", "sparse", "group"}, default="sparse"
        "gaussian": noise of a fixed rate on all weights. "variational": rates of layers or units,
        learned. "sparse": a rate of every weight. "group": rates of input units of linear layers
        and of output channels of convolutions.
    rate : float, default=0.2
        Dropout rate p of "gaussian", and where "variational" starts: alpha = p / (1 - p). At most
        0.5, which is an alpha of one.
    per : {"layer", "unit"}, default="layer"
        What has a rate of its own in "variational": a layer, or an input unit (channel).
    correlated : bool, default=False
        Whether in "gaussian" and "variational" the weights of an input unit share their noise.
    group_prior : {"normal_jeffreys", "horseshoe"}, default="normal_jeffreys"
        Prior of the factors of groups.
    horseshoe_scale : float, default=1e-5
        Scale of the horseshoe's factor of a whole layer.
    kl : {"molchanov", "exact"}, default="molchanov"
        How the divergence from the log-uniform prior is computed: by an approximation with an
        error below 0.0095, or exactly, which is slower for "sparse".
    init_log_var : float or None, default=None
        Where the logarithms of the variances start, in "sparse" and "group"; None is -10 and -9.
        Too large a value drowns the data in noise from the start.
    max_epochs : int or None, default=None
        Passes over the data; None is as many as 4,000 steps take, at least 50.
    batch_size : int or None, default=None
        Rows per step; None is 128.
    learning_rate : float or None, default=None
        Of Adam, on the bound per row; it falls to zero linearly. None is 120 / steps, at least
        0.001 and at most 0.03, with which the logarithm of a variance can move by about 60.
    kl_warmup : int or float, default=0.3
        Epochs, or share of them, in which the weight of the divergence rises from zero to one.
        Without it, weights are often given up before they have learned anything.
    threshold : float or None, default=None
        Weights, or groups of them, with log alpha at or above it are removed after training; None
        is 3, and found by `fit` for ``kind="group"``. See `prune`.
    n_draws : int, default=30
        Draws of the weights that predictions average over.
    noise : {"learned", "heteroscedastic"}, float or array-like, default="learned"
        Standard deviation of the noise: one inferred with the weights, a function of x that the
        network gives, or a number (or one per output) in the units of y.
    standardize : {True, False, "X", "y", "arcsinh"}, default=True
        Whether X and y are brought to mean zero and deviation one (True), neither (False), or one
        of them. "arcsinh" is True, and bends columns of X with heavy tails, see
        `BayesianMLPClassifier`.
    callbacks : list of skorch callbacks or None, default=None
        Called as in skorch at the beginning and end of the fit and of every epoch, see
        `BayesianModuleRegressor`.
    device : {"cpu", "cuda", "auto"}, default="cpu"
        Where to compute.
    dtype : {"float32", "float64"}, default="float32"
        Float type of the training; predictions are always in float64.
    random_state : int, RandomState instance or None, default=None
        Seed. The same seed gives the same fit.
    verbose : int, default=0
        1 shows a progress bar.
    **module_params : object
        Parameters of the module's class, each with the prefix ``module__``.

    Attributes
    ----------
    log_alpha_ : dict of str to ndarray
        Log of the variance over the squared mean of each weight (factor of a group, layer), by the
        names that the weights have in `to_module`'s uncompressed network, such as "0.weight";
        shapes (n_out, n_in, ...), (n_groups,) or (1,).
    masks_ : dict of str to ndarray of bool
        Weights that are kept.
    threshold_ : float or dict of str to float
        Of log alpha, by which they are kept; a dict if `prune` was given one.
    sparsity_ : dict of str to float
        Share of each weight's entries that is removed; "all" of all of them.
    sparsity_curve_ : dict of str to ndarray of shape (`n_iter_`,)
        The same after every epoch, at ``threshold`` (3 where it is None).
    bit_precision_ : dict of str to int
        Bits that a kept weight of each layer needs, see `skbayes.layers.bits`.
    compression_ratio_ : Compression
        Named tuple: ``pruning``, all weights by those kept, and ``precision``, their bits (32 for
        each weight of the whole network). Biases and the places of the kept weights are not
        counted, see `skbayes.layers.bits.compression_ratio`.
    posterior_ : Posterior
        Draws of the pruned network's weights.
    noise_std_ : float or ndarray of shape (n_outputs,)
        Posterior mean of the noise's standard deviation in the units of y; not where the noise is
        heteroscedastic.
    n_features_in_ : int
        Number of features (length of the second axis of X).
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names, where X had them.
    n_iter_ : int
        Epochs.
    loss_curve_ : ndarray of shape (`n_iter_`,)
        Negative bound per row over the epochs, up to a constant.
    diagnostics_ : dict
        Empty: draws are independent.
    history_ : list of dict
        What callbacks recorded for every epoch; only with ``callbacks``.

    See Also
    --------
    VariationalDropoutClassifier : The same for classification, and the method.

    Examples
    --------
    >>> import numpy as np
    >>> from skbayes import VariationalDropoutRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(300, 10))
    >>> y = np.sin(2 * X[:, 0]) + 0.1 * rng.normal(size=300)  # the other columns say nothing
    >>> reg = VariationalDropoutRegressor((20,), max_epochs=300, random_state=0).fit(X, y)
    >>> bool(reg.score(X, y) > 0.9)
    True
    >>> bool(reg.sparsity_["all"] > 0.7)
    True
    """

    def __init__(
        self,
        hidden_layer_sizes=(50,),
        activation="relu",
        *,
        module=None,
        kind="sparse",
        rate=0.2,
        per="layer",
        correlated=False,
        group_prior="normal_jeffreys",
        horseshoe_scale=1e-5,
        kl="molchanov",
        init_log_var=None,
        max_epochs=None,
        batch_size=None,
        learning_rate=None,
        kl_warmup=0.3,
        threshold=None,
        n_draws=30,
        noise="learned",
        standardize=True,
        callbacks=None,
        device="cpu",
        dtype="float32",
        random_state=None,
        verbose=0,
        **module_params,
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.module = module
        self.kind = kind
        self.rate = rate
        self.per = per
        self.correlated = correlated
        self.group_prior = group_prior
        self.horseshoe_scale = horseshoe_scale
        self.kl = kl
        self.init_log_var = init_log_var
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.kl_warmup = kl_warmup
        self.threshold = threshold
        self.n_draws = n_draws
        self.noise = noise
        self.standardize = standardize
        self.callbacks = callbacks
        self.device = device
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose
        self._keep_module_params(module_params)
