"""Expectation propagation and assumed-density filtering with factorised normal weights."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skbayes.inference.base import Method, to_numpy
from skbayes.model.factors import block_factor
from skbayes.model.moments import output_moments
from skbayes.model.network import MLPNetwork
from skbayes.model.priors import BoundNormal
from skbayes.posterior import Posterior


class EP(Method):
    def __init__(
        self,
        mode="ep",
        n_members=1,
        n_draws=100,
        batch_size=None,
        max_epochs=None,
        damping=None,
        shuffle=True,
        tol=0.01,
    ):
        self.mode = mode
        self.n_members = n_members
        self.n_draws = n_draws
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.damping = damping
        self.shuffle = shuffle
        self.tol = tol

    needs = frozenset({"network"})

    def chain_count(self):
        """Number of members."""
        return self.n_members

    def check(self):
        """Check the parameters, see `Method.check`."""
        self._choice("mode", ("ep", "adf"))
        self._require("n_members", "n_draws")
        self._require("batch_size", "max_epochs", or_in=(None,))

    def run(self, log_posterior, theta0, streams, on_step=None):
        """Pass messages until they stay, see `Method.run`."""
        fit = _Fit(self, log_posterior, theta0, streams)
        hist = []
        for epoch in range(self.max_epochs or 50):
            change = fit.epoch(epoch)
            hist.append((change, fit.log_z.sum().item() / fit.data.n, fit.refused))
            if on_step is not None:
                on_step(epoch + 1, self.max_epochs, f"{change:.3f}")
            if change < self.tol:
                break
        m, v = fit.moments()
        z = streams.normal(self.n_draws, m.shape[1], dtype=torch.float64, device=m.device)
        draws = m[:, None] + v.sqrt()[:, None] * z
        return Posterior(
            to_numpy(draws.to(log_posterior.dtype)),
            log_posterior.layout,
            adapted={"mean": to_numpy(m), "variance": to_numpy(v), "hist": np.array(hist)},
            last_state=to_numpy(m.to(log_posterior.dtype)),
            independent=True,
        )


class _Fit:
    def __init__(self, method, data, theta0, streams):
        self.method, self.data, self.streams = method, data, streams
        self.c, self.P = streams.n_chains, data.n_params
        kw = dict(dtype=torch.float64, device=data.device)
        prec = torch.cat(
            [
                torch.as_tensor(data.prior.scales**-2.0, **kw),
                torch.full((self.P - data.layout.n_network,), 1.5**-2.0, **kw),
            ]
        )
        self.prior = prec
        size = method.batch_size
        n = data.n
        nb = -(-n // size)
        size = -(-n // nb)
        self.nb, self.size = nb, size
        self.tau, self.nu = prec.repeat(self.c, 1), torch.zeros(self.c, self.P, **kw)
        theta = data.initial(streams).double() if theta0 is None else theta0.double()
        if len(data.network.layers) == 1 and theta0 is None:
            theta = torch.zeros_like(theta)
        self.offset = theta * prec
        self.nu += self.offset
        ep = method.mode == "ep"
        if ep:
            self.site_tau = torch.zeros(nb, self.c, self.P, **kw)
            self.site_nu = (self.offset / nb).repeat(nb, 1, 1)
        self.kw = kw
        self.partition()
        self.log_z = torch.zeros(nb, self.c)

    def partition(self):
        n = self.data.n
        order = self.streams.permutation(n) if self.method.shuffle else np.tile(np.arange(n), (self.c, 1))
        pad = self.nb * self.size - n
        self.index = np.concatenate([order, order[:, :1].repeat(pad, 1)], 1).reshape(self.c, self.nb, self.size)
        self.real = torch.ones(self.c, self.nb * self.size, **self.kw)
        self.real[:, n:] = 0
        self.real = self.real.view(self.c, self.nb, self.size)
        # spread padding? last block only

    def block(self, b):
        index = self.index[:, b]
        d = self.data
        rows = d.inputs.dense(index, torch.float64)
        flat = torch.as_tensor(index)
        y = d.y[0].double()[:, flat].movedim(1, 0)
        w = self.real[:, b]
        if d.weight is not None:
            w = w * d.weight[0].double()[flat]
        return rows, y, w[:, None]

    def moments(self):
        return self.nu / self.tau, 1 / self.tau

    def tilt(self, m, v, b):
        d = self.data
        rows, y, w = self.block(b)
        k = d.layout.n_network
        with torch.enable_grad():
            nm, nv = m[:, :k].clone().requires_grad_(), v[:, :k].clone().requires_grad_()
            z, cov = output_moments(d.network, nm, nv, rows)
        f = block_factor(d.likelihood, z.detach(), cov.detach(), y, w, m[:, k:], v[:, k:])
        g, h = torch.autograd.grad((z, cov), (nm, nv), (f.by_mean, f.by_cov))
        m_new = nm.detach() + v[:, :k] * g
        v_new = v[:, :k] - v[:, :k] ** 2 * (g * g - 2 * h)
        return f.log_z, torch.cat([m_new, f.params_mean], 1), torch.cat([v_new, f.params_variance], 1)

    def epoch(self, e):
        ep = self.method.mode == "ep"
        before = self.moments()
        self.refused = 0
        if e and not ep:
            self.partition()
        for b in range(self.nb):
            ct, cn = self.tau, self.nu
            if ep:
                ct, cn = ct - self.site_tau[b], cn - self.site_nu[b]
            m, v = cn / ct, 1 / ct
            lz, m2, v2 = self.tilt(m, v, b)
            self.log_z[b] = lz
            bad = ~((v2 > 0) & torch.isfinite(m2))
            self.refused += bad.double().mean().item() / self.nb
            grow = v2 > v
            if CLIP:
                v2 = torch.where(grow, v, v2)
            st, sn = 1 / v2 - ct, m2 / v2 - cn
            if ep:
                st = torch.where(bad, self.site_tau[b], st)
                sn = torch.where(bad, self.site_nu[b], sn)
                d = self.method.damping
                st = self.site_tau[b] + d * (st - self.site_tau[b])
                sn = self.site_nu[b] + d * (sn - self.site_nu[b])
                self.tau, self.nu = ct + st, cn + sn
                self.site_tau[b], self.site_nu[b] = st, sn
            else:
                self.tau = torch.where(bad, ct, ct + st)
                self.nu = torch.where(bad, cn, cn + sn)
        m, v = self.moments()
        return max(((m - before[0]).abs() / v.sqrt()).max().item(), (v / before[1]).log().abs().max().item())


CLIP = True
