"""The exact expected squared error of a network with one hidden layer and normal weights."""

from __future__ import annotations

import torch
from torch import Tensor

from skbayes.layers.kl import LOG_2PI
from skbayes.layers.objective import Objective
from skbayes.layers.passes import plain_rows
from skbayes.model.likelihoods import Normal
from skbayes.model.moments import activation_moments
from skbayes.model.network import MLPNetwork


def output_mean_and_variance(
    network: MLPNetwork, mean: Tensor, var: Tensor, x: Tensor
) -> tuple[Tensor, Tensor]:
    r"""Exact mean and variance of the outputs of a network with at most one hidden layer.

    Hinton and van Camp (1993): with independent normal weights the input of a hidden
    unit is normal, with

    .. math:: \mu_j = \sum_i m_{ij} x_i + m_j, \qquad \sigma_j^2 = \sum_i v_{ij} x_i^2 + v_j,

    and for one row the units are independent. With E and V the mean and the variance of a unit's
    output under that normal (the paper takes them from a table; here relu and identity are exact
    and the other activations take a fine quadrature), an output has

    .. math:: \mathbb{E} f = \sum_j m_j' E_j + m', \qquad
              \operatorname{Var} f = \sum_j \left( (m_j'^2 + v_j') V_j + v_j' E_j^2 \right) + v'.

    Parameters
    ----------
    network : MLPNetwork
        With no hidden layer, or one.
    mean, var : Tensor of shape (n_params,)
        Of its weights.
    x : Tensor of shape (n, n_inputs)
        Rows.

    Returns
    -------
    mean, var : Tensor of shape (n, n_outputs)
        Differentiable by autograd.

    Raises
    ------
    ValueError
        If there are more hidden layers: their units are not independent.
    """
    if len(network.layers) > 2:
        raise ValueError(
            "The expected squared error has a closed form with one hidden layer at most, but "
            f"hidden_layer_sizes={network.hidden_layer_sizes!r}."
        )
    ones = x.new_ones((len(x), 1))
    of_mean, of_var = (_joint(values, network.layers[0]) for values in (mean, var))
    centre = torch.cat([x, ones], 1) @ of_mean  # (n, units)
    spread = torch.cat([x * x, ones], 1) @ of_var
    if len(network.layers) == 1:
        return centre, spread
    h, v = activation_moments(network.activation, centre[..., None], spread[..., None, None])
    h, v = h[..., 0], v[..., 0, 0]
    of_mean, of_var = (_joint(values, network.layers[1]) for values in (mean, var))
    outputs = torch.cat([h, ones], 1) @ of_mean
    variance = v @ (of_mean[:-1] ** 2 + of_var[:-1]) + torch.cat([h * h, ones], 1) @ of_var
    return outputs, variance


def expected_squared_error(
    network: MLPNetwork, mean: Tensor, var: Tensor, x: Tensor, y: Tensor
) -> Tensor:
    r"""Exact expectation of the squared error of every row over the weights.

    .. math:: \mathbb{E} (y - f)^2 = (y - \mathbb{E} f)^2 + \operatorname{Var} f

    Parameters
    ----------
    network, mean, var, x
        See `output_mean_and_variance`.
    y : Tensor of shape (n, n_outputs)
        Targets.

    Returns
    -------
    Tensor of shape (n, n_outputs)
    """
    centre, spread = output_mean_and_variance(network, mean, var, x)
    return (y - centre) ** 2 + spread


class ClosedFormObjective(Objective):
    """The bound of independent normal weights without noise, for squared errors.

    Learned noise, and hyper-parameters of the prior, are drawn.

    Parameters
    ----------
    log_posterior, family, noise
        See `Objective`.
    """

    def __init__(self, log_posterior, family, noise) -> None:
        self.target, self.family, self.noise = log_posterior, family, noise
        self.layout = log_posterior.layout

    def log_likelihood(self, part, mean, var):
        """See `Objective.log_likelihood`."""
        net, params, hyper = self.layout.split(mean)
        net_var, params_var, hyper_var = self.layout.split(var)
        hyper = self.noise.draw(hyper, hyper_var) if len(hyper) else hyper
        weights, variances = self.family.given(net, net_var, hyper)
        if len(params):
            params = self.noise.draw(params, params_var)
        x, y = plain_rows(part.inputs), part.y[0].mT
        square = expected_squared_error(part.network, weights, variances, x, y)
        sigma = part.likelihood.mean_and_std(y.mT[None], params[None])[1][0].mT
        logs = -0.5 * square * sigma**-2 - torch.log(sigma) - 0.5 * LOG_2PI
        if part.weight is not None:
            logs = logs * part.weight[0][:, None]
        return part.factor * logs.sum()


def check_closed_form(log_posterior) -> None:
    """Raise unless the likelihood has a closed expectation."""
    network, likelihood = log_posterior.network, log_posterior.likelihood
    reason = None
    if not isinstance(network, MLPNetwork):
        reason = "the network is a torch module, not a multilayer perceptron"
    elif len(network.layers) > 2:
        reason = f"the network has {len(network.layers) - 1} hidden layers"
    elif not isinstance(likelihood, Normal) or likelihood.heteroscedastic:
        reason = "the likelihood is not one with normal noise that is the same for all rows"
    if reason is not None:
        raise ValueError(
            f"VI: estimator='closed_form' is not allowed here, since {reason}; it needs a "
            "regressor with one hidden layer at most and noise='learned' or a number."
        )


def _joint(flat: Tensor, layer) -> Tensor:
    """Weight and bias of a layer as one matrix, (fan_in + 1, fan_out)."""
    return flat[layer.joint].view(layer.fan_in + 1, layer.fan_out)
