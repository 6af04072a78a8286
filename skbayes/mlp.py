"""Bayesian multilayer perceptrons for classification and regression."""

from __future__ import annotations

from skbayes.base import BayesianEstimator
from skbayes.base_classifier import BayesianClassifier
from skbayes.base_regressor import BayesianRegressor
from skbayes.inference.auto import MANY_ROWS
from skbayes.model import MLPNetwork
from skbayes.validation import Standardizer, check_activation, check_hidden_layer_sizes

NARROW, WIDE = 50, 100  # units of the default network, with few and with many rows


def sizes_for(hidden_layer_sizes, n_rows: int = 0) -> tuple[int, ...]:
    """Units per hidden layer of a network that learns from so many rows."""
    if isinstance(hidden_layer_sizes, str) and hidden_layer_sizes == "auto":
        return (WIDE,) if n_rows > MANY_ROWS else (NARROW,)
    return check_hidden_layer_sizes(hidden_layer_sizes, ", or 'auto'")


class _MLPMixin(BayesianEstimator):
    """The network that both estimators share."""

    def _check_model(self) -> None:
        sizes_for(self.hidden_layer_sizes)
        check_activation(self.activation)

    def _make_network(self, inside, seed, fitted=True) -> MLPNetwork:
        sizes = sizes_for(self.hidden_layer_sizes, inside.shape[0])
        return MLPNetwork(inside.shape[1], sizes, self._n_network_outputs(fitted), self.activation)

    def _make_scaler(self):
        if self.standardize != "auto":
            return super()._make_scaler()
        return Standardizer(True, bend=len(sizes_for(self.hidden_layer_sizes)) > 0)


class BayesianMLPClassifier(_MLPMixin, BayesianClassifier):
    r"""Bayesian multilayer perceptron for classification.

    The posterior over the weights,

    .. math:: p(\theta \mid D) \propto p(\theta) \prod_i p(y_i \mid x_i, \theta),

    is explored by ``method``, and predictions are averages over it,

    .. math:: p(y \mid x, D) = \int p(y \mid x, \theta)\, p(\theta \mid D)\, d\theta
              \approx \frac1S \sum_s p(y \mid x, \theta_s).

    Parameters
    ----------
    hidden_layer_sizes : "auto" or tuple of int, default="auto"
        Units per hidden layer; ``()`` is Bayesian logistic regression. "auto" is one layer of 50,
        and of 100 with more than 10,000 rows (of the first call where `partial_fit` goes on).
    activation : {"identity", "relu", "tanh", "silu", "gelu"}, default="tanh"
        Activation of the hidden layers.
    method : str or Method, default="auto"
        How the posterior is explored: the name of a method (``"map"``, ``"ensemble"``,
        ``"anchored"``; ``"hmc"``, ``"nuts"``, ``"mclmc"`` and other chains; ``"sghmc"`` and others
        by minibatches; ``"laplace"``, ``"vi"``, ``"swag"``, ``"dropout"``; all are in the user
        guide), or an object from `skbayes.inference` that holds the knobs, such as
        ``HMC(n_draws=1000)``.
        ``"auto"`` is ``"anchored"``, or an ensemble of modes where X has at least as many
        features as rows, with how much the rows count chosen by rows left out, see
        `skbayes.inference.auto.choose`.
    prior : str, Prior or None, default=None
        Prior of the weights: ``"normal"``, ``"laplace"``, ``"student_t"``, ``"hierarchical"``,
        ``"horseshoe"`` and others, or an object from `skbayes.model.priors`, which holds its
        scale. None is ``NormalPrior(scale=2.0, fan_in=True)``.
    standardize : {"auto", "arcsinh", True, False, "X"}, default="auto"
        Whether the columns of X are brought to mean zero and deviation one (True, "X"). "arcsinh"
        does so, and bends those that have heavier tails than a Laplace distribution (a kurtosis
        over six): they pass through arcsinh(c z) with the first of c = 1, 3, 10 that brings it down
        to six, and are standardised again. "auto" is "arcsinh" with hidden layers, and True
        without, where a model linear in X is meant. Sparse X is divided by the largest absolute
        value of each column.
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, as if there were more rows of them. Probabilities then refer to a
        population weighted so.
    device : {"cpu", "cuda", "auto"}, default="cpu"
        Where to compute.
    dtype : {"float32", "float64"}, default="float32"
        Float type of the inference; predictions are always in float64.
    warm_start : bool, default=False
        Whether `fit` goes on from where the last one stopped, with its scaling of X. On the
        same rows the Markov chains of the same method go on as if they had never stopped, without
        a warm-up, and ``posterior_`` holds the new draws; on other rows, or with another method,
        they start at their last points. Another network, prior, noise or
        ``standardize`` is an error.
    n_jobs : int or None, default=None
        Processes that chains of Markov chain methods are spread over, in groups of
        ``method.group_size``; other methods do not need it. None is one, or what a
        `joblib.parallel_config` says; -1 is all cores. The draws do not depend on it.
    random_state : int, RandomState instance or None, default=None
        Seed. The same seed gives the same draws.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    posterior_ : Posterior
        The draws.
    classes_ : ndarray of shape (n_classes,)
        Labels (for multilabel y, the labels' numbers).
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names, where X had them.
    n_iter_ : int
        Epochs, or draws per chain.
    loss_curve_ : ndarray of shape (`n_iter_`,)
        Negative log posterior per row over the epochs, where the method is an optimiser.
    log_evidence_ : float
        Log evidence in the units of y, where the method gives one (``"laplace"``).
    elbo_ : float
        Lower bound of it, in the units of y, where the method gives one (``"vi"``).
    description_length_ : dict of str to float
        Minus that bound in bits, ``"total"``, and its parts ``"error"`` and ``"complexity"``.
    diagnostics_ : dict
        R-hat and effective sample sizes of the predictions, acceptance, divergences, see
        `skbayes.diagnostics.diagnose`; empty where members are independent.

    See Also
    --------
    BayesianMLPRegressor : The same for regression.

    References
    ----------
    Neal (1996), Bayesian Learning for Neural Networks.

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> from skbayes import BayesianMLPClassifier
    >>> X, y = make_moons(100, noise=0.2, random_state=0)
    >>> clf = BayesianMLPClassifier((10,), random_state=0).fit(X, y)
    >>> clf.predict_proba(X[:2]).shape
    (2, 2)
    >>> bool(clf.score(X, y) > 0.9)
    True
    """

    _standardize_choices = ("auto", *BayesianEstimator._standardize_choices)

    def __init__(
        self,
        hidden_layer_sizes="auto",
        activation="tanh",
        *,
        method="auto",
        prior=None,
        standardize="auto",
        class_weight=None,
        device="cpu",
        dtype="float32",
        warm_start=False,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.method = method
        self.prior = prior
        self.standardize = standardize
        self.class_weight = class_weight
        self.device = device
        self.dtype = dtype
        self.warm_start = warm_start
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose


class BayesianMLPRegressor(_MLPMixin, BayesianRegressor):
    r"""Bayesian multilayer perceptron for regression.

    As `BayesianMLPClassifier`, with normal noise,

    .. math:: y \mid x, \theta \sim N(f_\theta(x), \sigma^2),

    whose deviation is a second output of the network, one number learned with the weights, or
    known.

    Parameters
    ----------
    hidden_layer_sizes : "auto" or tuple of int, default="auto"
        Units per hidden layer; ``()`` is Bayesian linear regression. "auto" is one layer of 50, and
        of 100 with more than 10,000 rows (of the first call where `partial_fit` goes on).
    activation : {"identity", "relu", "tanh", "silu", "gelu"}, default="tanh"
        Activation of the hidden layers.
    method : str or Method, default="auto"
        How the posterior is explored: the name of a method (``"map"``, ``"ensemble"``,
        ``"anchored"``; ``"hmc"``, ``"nuts"``, ``"mclmc"`` and other chains; ``"sghmc"`` and others
        by minibatches; ``"laplace"``, ``"vi"``, ``"swag"``, ``"dropout"``; all are in the user
        guide), or an object from `skbayes.inference` that holds the knobs, such as
        ``HMC(n_draws=1000)``.
        ``"auto"`` is ``"mclmc"`` with short chains in most regressions of up to 10,000 rows, else
        ``"anchored"`` or ``"ensemble"``, see `skbayes.inference.auto.choose`.
    prior : str, Prior or None, default=None
        Prior of the weights: ``"normal"``, ``"laplace"``, ``"student_t"``, ``"hierarchical"``,
        ``"horseshoe"`` and others, or an object from `skbayes.model.priors`, which holds its
        scale. None is ``NormalPrior(scale=2.0, fan_in=True)``.
    noise : {"learned", "heteroscedastic"}, float or array-like, default="heteroscedastic"
        Standard deviation of the noise: one inferred with the weights, a function of x inferred
        with them, or a number (or one per output) in the units of y.
    standardize : {True, False, "X", "y", "arcsinh"}, default=True
        Whether X and y are brought to mean zero and deviation one (True), neither (False), or one
        of them. "arcsinh" is True, and bends columns of X with heavy tails as the classifier does.
        Predictions are in the units of y in every case.
    device : {"cpu", "cuda", "auto"}, default="cpu"
        Where to compute.
    dtype : {"float32", "float64"}, default="float32"
        Float type of the inference; predictions are always in float64.
    warm_start : bool, default=False
        Whether `fit` goes on from where the last one stopped, with its scaling of X and y. On the
        same rows the Markov chains of the same method go on as if they had never stopped, without
        a warm-up, and ``posterior_`` holds the new draws; on other rows, or with another method,
        they start at their last points. Another network, prior, noise or
        ``standardize`` is an error.
    n_jobs : int or None, default=None
        Processes that chains of Markov chain methods are spread over, in groups of
        ``method.group_size``; other methods do not need it. None is one, or what a
        `joblib.parallel_config` says; -1 is all cores. The draws do not depend on it.
    random_state : int, RandomState instance or None, default=None
        Seed. The same seed gives the same draws.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    posterior_ : Posterior
        The draws.
    noise_std_ : float or ndarray of shape (n_outputs,)
        Posterior mean of the noise's standard deviation in the units of y; not where the noise is
        heteroscedastic.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names, where X had them.
    n_iter_ : int
        Epochs, or draws per chain.
    loss_curve_ : ndarray of shape (`n_iter_`,)
        Negative log posterior per row over the epochs, where the method is an optimiser.
    log_evidence_ : float
        Log evidence in the units of y, where the method gives one (``"laplace"``).
    elbo_ : float
        Lower bound of it, in the units of y, where the method gives one (``"vi"``).
    description_length_ : dict of str to float
        Minus that bound in bits, ``"total"``, and its parts ``"error"`` and ``"complexity"``.
    diagnostics_ : dict
        R-hat and effective sample sizes of the predictions, acceptance, divergences, see
        `skbayes.diagnostics.diagnose`; empty where members are independent.

    See Also
    --------
    BayesianMLPClassifier : The same for classification.

    References
    ----------
    Neal (1996), Bayesian Learning for Neural Networks.

    Examples
    --------
    >>> import numpy as np
    >>> from skbayes import BayesianMLPRegressor
    >>> X = np.linspace(-2, 2, 60)[:, None]
    >>> y = np.sin(2 * X[:, 0])
    >>> reg = BayesianMLPRegressor((20,), noise=0.1, random_state=0).fit(X, y)
    >>> mean, std = reg.predict([[0.0], [10.0]], return_std=True)
    >>> bool(std[0] < std[1])  # less is known far from the data
    True
    """

    def __init__(
        self,
        hidden_layer_sizes="auto",
        activation="tanh",
        *,
        method="auto",
        prior=None,
        noise="heteroscedastic",
        standardize=True,
        device="cpu",
        dtype="float32",
        warm_start=False,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.method = method
        self.prior = prior
        self.noise = noise
        self.standardize = standardize
        self.device = device
        self.dtype = dtype
        self.warm_start = warm_start
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose
