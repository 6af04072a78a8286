"""The variational autoencoder as a density, a transformer and a sampler."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, DensityMixin
from sklearn.exceptions import ConvergenceWarning

from skbayes.density.answers import AnswersMixin
from skbayes.density.candidates import Candidate, fit_candidates, one_pass
from skbayes.density.model import VAE
from skbayes.density.options import check_options, make_columns
from skbayes.density.problem import Problem
from skbayes.density.rows import CheckedRows, Split, check_rows
from skbayes.progress import ProgressBar
from skbayes.validation import check_sample_weight, draw_seed, resolve_device, resolve_dtype


class VAEDensityEstimator(
    AnswersMixin, ClassNamePrefixFeaturesOutMixin, DensityMixin, BaseEstimator
):
    r"""Variational autoencoder: density, latent features and samples in one estimator.

    Rows are taken to come from latent variables z by a network, the decoder,

    .. math:: p(x) = \int p(x \mid z)\, p(z)\, dz,

    and a second network, the encoder, gives a normal :math:`q(z \mid x)` for each row. Both are
    trained on the evidence lower bound (Kingma and Welling 2014, equation 3)

    .. math:: \log p(x) \ge E_{q(z \mid x)}[\log p(x \mid z)] - KL(q(z \mid x) \,\|\, p(z)).

    Up to three models are trained: a linear one in closed form (probabilistic PCA, or factor
    analysis), a deep one with a linear path beside it that starts at the closed form, and, with
    1,000 training rows or more, a deep one alone. The first of them is kept, unless a later one has
    a better held-out density by more than two standard errors.

    Parameters
    ----------
    latent_dim : int or None, default=None
        Number of latent variables. None: at most 10 for the deep path alone; with a linear path as
        many as there are columns, at most 32.
    hidden_layer_sizes : int or sequence of int, default=(64, 64)
        Widths of the encoder's hidden layers; the decoder's are the same in reverse order. Empty is
        the linear model.
    activation : {"silu", "relu", "tanh", "gelu", "elu"}, default="silu"
        Between layers.
    noise : {"per_row", "per_feature", "shared"}, default="per_row"
        Variance of real columns: decoded for each row, one per column, or one number.
    noise_floor : float, default=0.01
        Smallest standard deviation of the noise, in standard deviations of the column (in the units
        of X with ``standardize=False``).
    noise_prior : float, default=0.1
        Residual, in the units of ``noise_floor``, that the prior of each variance is worth one row
        of.
    latent_prior : {"auto", "normal", "mixture", "vamp", "relevance", "two_stage"}, default="auto"
        Distribution of the latent variables. "auto" is a mixture with a linear path, and normal
        without.
    n_components : int, default=16
        Components of "mixture" (at most) and "vamp".
    linear_path : {"auto", True, False}, default="auto"
        Whether there is a linear path beside the deep one; "auto" tries both.
    decoder_weights : {"point", "normal"}, default="point"
        Whether the decoder's weights are numbers, or have normal posteriors from the prior N(0, 1),
        see Notes; then there is no closed form, and the objective is "elbo".
    n_weight_draws : int, default=8
        Draws of normal weights that densities are averaged over.
    objective : str, default="elbo"
        "elbo" and "iwae" are bounds of the log density; "beta-divergence" is the first with less
        weight for unlikely rows, for data that are not all of one kind. "mse" (plain autoencoder),
        "mmd", "gan", "mmd+gan", "vae-gan" and "stein" leave no density: `score_samples` is not
        there.
    n_points : int or None, default=None
        Points of q per row and step; None is 1, and 8 for "iwae". Objectives without a density take
        None only.
    beta : float, default=1.0
        Factor on the divergence. Other values than 1 train for something else than the density:
        then the objective itself stops the training and chooses the model. Objectives without a
        density take 1 only, but for "vae-gan".
    free_bits : float, default=0.0
        Nats of each latent variable that cost nothing in training; for "elbo" and
        "beta-divergence". If positive, the objective itself stops the training, too.
    penalty : float, default=10.0
        Factor on the criteria that compare the encodings with the prior ("mmd", "gan", "mmd+gan",
        "stein") and on the discriminator's verdict ("vae-gan"); others make no use of it.
    kernel : {"imq", "rbf"}, default="imq"
        Of "mmd", and of what stops the training with "gan", "mmd+gan" and "vae-gan": sum of inverse
        multiquadrics, or a normal with the width by the median distance. Others make no use of it.
    robustness : float, default=0.5
        Of "beta-divergence": the larger, the less unlikely rows weigh. Near zero it is "elbo".
    n_importance : int, default=512
        Points per row for the log density.
    importance_inflation : float, default=1.0
        Factor on the standard deviations of q where the log density is computed.
    standardize : bool, default=True
        Whether real columns are centred and scaled inside.
    categorical_features, binary_features, count_features : array-like or None, default=None
        Columns with categories, two values, counts: indices, a mask, or names. X has numbers:
        encode strings first, by ``OrdinalEncoder``.
    integer_features : array-like, "auto" or None, default="auto"
        Columns whose values lie on a grid of whole numbers and get a probability each. "auto":
        those with whole numbers only (of images: if all pixels have them).
    image_shape : tuple of int or None, default=None
        (channels, height, width) or (height, width) of what a row is, for convolutional networks.
        All pixels are of one kind, and ``linear_path="auto"`` is False.
    channels : tuple of int, default=(16, 32)
        Of the convolutional layers, each of which halves height and width.
    batch_size : int, default=128
        Rows per step.
    max_epochs : int or None, default=None
        Passes over the rows; None is what 4,000 steps take. Where they end while the held-out loss
        still falls, `fit` warns.
    learning_rate : float, default=0.003
        Of Adam. It is cut twice when the held-out bound stops to rise.
    warm_up : int, default=300
        Steps in which the factor on the divergence grows from 0 to 1, where there is no linear
        start.
    patience : int, default=10
        Evaluations without a better held-out bound before the rate is cut. They are every 50 steps,
        or less often where many rows are held out, so that they take a fifth of the time at most.
    validation_fraction : float or "auto", default="auto"
        Share of the rows (at most 5,000) that training is stopped by and models are compared on; 0
        takes the training rows. "auto" is 0.15, but 100 rows or a third at least.
    refit : {"auto", True, False}, default="auto"
        Whether the chosen model is trained anew on all rows, for as many steps as were best; "auto"
        with fewer than 2,000 rows.
    device : {"cpu", "cuda", "auto"}, default="cpu"
        Where to compute.
    dtype : {"float32", "float64"}, default="float32"
        Of training; answers are computed in double precision.
    callbacks : list of skorch callbacks or None, default=None
        Called at every evaluation with ``train_loss`` and ``valid_loss``.
    random_state : int, RandomState or None, default=None
        Seed.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    n_latent_ : int
        Number of latent variables.
    latent_relevance_ : ndarray of shape (`n_latent_`,)
        Mean divergence of q of each latent variable in nats from the normal with the mean and the
        variance that the latent prior gives it, largest first, the order of `transform`. It is the
        term of the bound where that prior is normal or "relevance".
    noise_std_ : ndarray of shape (`n_features_in_`,)
        Noise of real columns in the units of X (at the mean of z for "per_row"); NaN elsewhere.
        Objectives without a density train none: it is the root mean square of the held-out residual
        of each column, and what `sample` adds.
    candidates_ : dict
        Mean held-out log density of the models tried, in standardised units, by name; minus the
        held-out loss where that is not the density's.
    candidate_ : str
        The one that was kept.
    validation_indices_ : ndarray
        Rows that training was stopped by.
    loss_curve_, validation_curve_ : list of float
        Loss per row at the evaluations, in training and held out.
    history_ : list of dict
        What the callbacks saw of the kept model; only with ``callbacks``, and where it was trained.
    n_iter_ : int
        Steps of the kept model.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, where X had some.

    Notes
    -----
    With ``decoder_weights="normal"`` the decoder's weights w are variables as well, the same for
    all rows, and training is on the bound of all n rows (Kingma and Welling 2014, appendix F)

    .. math:: \log p(X) \ge E_{q(w)} \Big[ \sum_i E_{q(z \mid x_i)}[\log p(x_i \mid z, w)]
              - KL(q(z \mid x_i) \,\|\, p(z)) \Big] - KL(q(w) \,\|\, N(0, I))

    with independent normals q(w). The density of a row is then the mean over draws of w

    .. math:: p(x) \approx \frac1S \sum_{s=1}^S p(x \mid w_s), \qquad w_s \sim q(w),

    `sample` takes one of these draws for each row, and `reconstruct` the means of w. The variances
    of the noise, the latent prior and the encoder remain numbers.

    References
    ----------
    Kingma and Welling (2014), Auto-encoding variational Bayes. Burda, Grosse and Salakhutdinov
    (2016), Importance weighted autoencoders. Dai and Wipf (2019), Diagnosing and enhancing VAE
    models. Mattei and Frellsen (2018), Leveraging the exact likelihood of deep latent variable
    models.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from skbayes import VAEDensityEstimator
    >>> X = load_iris().data
    >>> vae = VAEDensityEstimator((), latent_dim=2, random_state=0).fit(X)
    >>> vae.transform(X).shape
    (150, 2)
    """

    _stream: dict[str, Any]

    def __init__(
        self,
        hidden_layer_sizes=(64, 64),
        latent_dim=None,
        activation="silu",
        *,
        noise="per_row",
        noise_floor=0.01,
        noise_prior=0.1,
        latent_prior="auto",
        n_components=16,
        linear_path="auto",
        decoder_weights="point",
        n_weight_draws=8,
        objective="elbo",
        n_points=None,
        beta=1.0,
        free_bits=0.0,
        penalty=10.0,
        kernel="imq",
        robustness=0.5,
        n_importance=512,
        importance_inflation=1.0,
        standardize=True,
        categorical_features=None,
        binary_features=None,
        count_features=None,
        integer_features="auto",
        image_shape=None,
        channels=(16, 32),
        batch_size=128,
        max_epochs=None,
        learning_rate=0.003,
        warm_up=300,
        patience=10,
        validation_fraction="auto",
        refit="auto",
        device="cpu",
        dtype="float32",
        callbacks=None,
        random_state=None,
        verbose=0,
    ):
        self.hidden_layer_sizes = hidden_layer_sizes
        self.latent_dim = latent_dim
        self.activation = activation
        self.noise = noise
        self.noise_floor = noise_floor
        self.noise_prior = noise_prior
        self.latent_prior = latent_prior
        self.n_components = n_components
        self.linear_path = linear_path
        self.decoder_weights = decoder_weights
        self.n_weight_draws = n_weight_draws
        self.objective = objective
        self.n_points = n_points
        self.beta = beta
        self.free_bits = free_bits
        self.penalty = penalty
        self.kernel = kernel
        self.robustness = robustness
        self.n_importance = n_importance
        self.importance_inflation = importance_inflation
        self.standardize = standardize
        self.categorical_features = categorical_features
        self.binary_features = binary_features
        self.count_features = count_features
        self.integer_features = integer_features
        self.image_shape = image_shape
        self.channels = channels
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.learning_rate = learning_rate
        self.warm_up = warm_up
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.refit = refit
        self.device = device
        self.dtype = dtype
        self.callbacks = callbacks
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []
        return tags

    def fit(self, X, y=None, sample_weight=None):
        """Train the model.

        Parameters
        ----------
        X : {array-like, torch Dataset} of shape (n_samples, n_features)
            Rows. A numpy memory map of 64 MiB or more, and a map-style ``Dataset`` of tuples whose
            first entry is the row, are read when rows are needed.
        y : None
            Ignored.
        sample_weight : array-like of shape (n_samples,), optional
            Weights of the rows, in the bound and in the standardiser.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter or the data are not allowed; the message names what is.
        """
        check_options(self)
        resolve_device(self.device), resolve_dtype(self.dtype)
        X = check_rows(self, X, reset=True, min_rows=2)
        return self._fit(X, check_sample_weight(sample_weight, X.shape[0]))

    def _fit(self, X, weight=None, columns=None):
        """`fit` to rows that were checked, with columns that may be known."""
        device, dtype = resolve_device(self.device), resolve_dtype(self.dtype)
        seed = draw_seed(self.random_state)
        kept = None
        if weight is not None and not weight.all():  # rows without a weight are not there
            kept = np.flatnonzero(weight)
            if len(kept) < 2:
                raise ValueError("sample_weight is positive for one row only; two are needed.")
            X, weight = CheckedRows(X, kept), weight[kept]
        if isinstance(X, CheckedRows) and not X.on_disk:
            X = X[:]
        problem = self._problem(X, weight, seed, device, dtype, columns)
        bar = ProgressBar(self.verbose, type(self).__name__)
        try:
            found = fit_candidates(self, problem, seed, bar)
        finally:
            bar.close()
        self.__dict__.pop("history_", None)  # of the model that was trained last
        if found.history is not None:
            self.history_ = found.history
        self._store(found, problem, stacklevel=4)
        if kept is not None:
            self.validation_indices_ = kept[problem.split.held_out]
        self._stream = {
            "seed": seed,
            "seen": float(X.shape[0]),
            "passes": 0,
            "adam": None,
            "before": max(1, found.n_steps),
        }
        return self

    def partial_fit(self, X, y=None):
        """One pass over more rows, without early stopping.

        The first call fixes the columns' kinds and scales and the starting weights, and tries no
        candidates: give it some hundred rows at least. There is a linear path unless
        ``linear_path=False``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.
        y : None
            Ignored.

        Returns
        -------
        self : object
            The estimator.
        """
        check_options(self)
        device, dtype = resolve_device(self.device), resolve_dtype(self.dtype)
        again = hasattr(self, "_weights")
        X = check_rows(self, X, reset=not again, min_rows=1 if again else 2)
        seed = self._stream["seed"] if again else draw_seed(self.random_state)
        columns = self._columns if again else None
        problem = self._problem(X, None, seed, device, dtype, columns, fraction=0.0)
        found, self._stream = one_pass(self, problem, seed, getattr(self, "_stream", None))
        self._store(found, problem)
        return self

    def _problem(self, X, weight, seed: int, device, dtype, columns=None, fraction=None) -> Problem:
        """Columns, the split, and values as the model takes them."""
        fraction = self.validation_fraction if fraction is None else fraction
        if columns is None:
            names = getattr(self, "feature_names_in_", None)
            columns = make_columns(self, X.shape[1], names).fit(X, weight)
        if not columns.layout.n_columns:
            raise ValueError(
                f"X has only columns that are constant in its n_samples={X.shape[0]} rows; there "
                "is nothing to model."
            )
        split = Split(X.shape[0], fraction, np.random.default_rng([seed, 1]))
        return Problem(X, weight, columns, split, device, dtype, not isinstance(X, np.ndarray))

    def _store(self, found: Candidate, problem: Problem, stacklevel: int = 3) -> None:
        """Set the fitted attributes."""
        self._columns, self._spec, self._weights = problem.columns, found.spec, found.weights
        self._point_seed = found.seed
        self.candidates_, self.candidate_ = found.scores, found.name
        self.validation_indices_ = problem.split.held_out
        self.loss_curve_, self.validation_curve_ = found.loss_curve, found.validation_curve
        self.n_iter_ = max(1, found.n_steps)
        self.n_latent_ = found.spec.n_latent
        self._n_features_out = self.n_latent_
        self._objective = self.objective
        model = self._model()
        index = problem.some_index()
        weight = problem.weights_of(index)
        relevance = self._relevance(model, problem.columns.transform(problem.X[index]), weight)
        self._latent_order = np.argsort(-relevance, kind="stable")
        self.latent_relevance_ = relevance[self._latent_order]
        self.noise_std_ = self._noise_std(model)
        for message in found.messages:
            warnings.warn(message, ConvergenceWarning, stacklevel=stacklevel)

    def _model(self) -> VAE:
        """The trained module in double precision."""
        model: Any = VAE.from_numpy(self._spec, self._weights).double()
        return model.to(self._answer_device()).eval().requires_grad_(False)

    def _answer_device(self) -> torch.device:
        if self.device == "cuda" and not torch.cuda.is_available():
            warnings.warn(
                "device='cuda', but torch finds no CUDA device: answering on the CPU.",
                RuntimeWarning,
                stacklevel=5,
            )
            return torch.device("cpu")
        return resolve_device(self.device)
