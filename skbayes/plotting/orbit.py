"""Why Hamiltonian Monte Carlo moves by the leapfrog method."""

from __future__ import annotations

import numpy as np

from skbayes.plotting._common import one_or_all, resolve_axes


class OrbitDisplay:
    r"""Three ways to follow a Hamiltonian orbit, and what they do to the energy.

    The system is the harmonic oscillator, which is Hamiltonian Monte Carlo on a standard normal,

    .. math:: H(q, p) = \tfrac12 q^2 + \tfrac12 p^2, \qquad
              \dot q = p, \quad \dot p = -q,

    whose exact orbits are circles of constant energy. With step size :math:`\epsilon`:

    - Euler's method moves q and p at once. The energy grows by the factor
      :math:`1 + \epsilon^2` in every step.
    - The modified Euler method moves p first, and then q with the new p. It keeps the volume, and
      the energy swings by an amount of order :math:`\epsilon`.
    - The leapfrog method moves p by half a step, q by a whole one, and p by half a step again. It
      keeps the volume, can be reversed, and the energy swings by order :math:`\epsilon^2`.

    Make it with `from_orbit`. The pictures are after Neal (2011), figure 1.

    Parameters
    ----------
    paths : dict of str to ndarray of shape (n_steps + 1, 2)
        Position q and momentum p of each method.
    step_size : float
        The epsilon above.

    Attributes
    ----------
    energies : dict of str to ndarray of shape (n_steps + 1,)
        Energy along each path.
    ax_ : ndarray of two matplotlib Axes
        Where it was drawn: the orbit, and the energy over time.
    figure_ : matplotlib Figure
        The figure of ``ax_``.

    References
    ----------
    Neal (2011), MCMC using Hamiltonian dynamics. Handbook of Markov Chain Monte Carlo, chapter 5.

    Examples
    --------
    >>> from skbayes.plotting import OrbitDisplay
    >>> display = OrbitDisplay.from_orbit(step_size=0.3, n_steps=20)  # doctest: +SKIP
    """

    def __init__(self, *, paths, step_size):
        self.paths = paths
        self.step_size = step_size
        self.energies = {name: 0.5 * (path**2).sum(1) for name, path in paths.items()}

    @classmethod
    def from_orbit(cls, step_size=0.3, n_steps=20, *, start=(0.0, 1.0), ax=None, **kwargs):
        """Follow the orbit by each method, and draw.

        Parameters
        ----------
        step_size : float, default=0.3
            Time of a step. The leapfrog method is stable below 2.
        n_steps : int, default=20
            Steps.
        start : tuple of two floats, default=(0.0, 1.0)
            Position and momentum at time zero.
        ax : array of two matplotlib Axes, optional
            Where to draw; default a new figure.
        **kwargs : dict
            Passed to `plot`.

        Returns
        -------
        OrbitDisplay
        """
        paths = {}
        for name, step in STEPS.items():
            path = np.empty((n_steps + 1, 2))
            path[0] = start
            for i in range(n_steps):
                path[i + 1] = step(path[i, 0], path[i, 1], step_size)
            paths[name] = path
        return cls(paths=paths, step_size=step_size).plot(ax=ax, **kwargs)

    def plot(self, ax=None, **kwargs):
        """Draw.

        Parameters
        ----------
        ax : array of two matplotlib Axes, optional
            Default a new figure.
        **kwargs : dict
            Passed to matplotlib's ``plot`` for the paths.

        Returns
        -------
        OrbitDisplay
        """
        self.figure_, axes = resolve_axes(ax, 2, figsize=(9.0, 4.0))
        orbit, energy = axes
        first = next(iter(self.energies.values()))[0]
        radius = np.sqrt(2 * first)
        angle = np.linspace(0, 2 * np.pi, 400)
        exact = {"color": "0.75", "lw": 4, "label": "exact", "zorder": 0}
        orbit.plot(radius * np.cos(angle), radius * np.sin(angle), **exact)
        energy.axhline(first, **exact)
        for name, path in self.paths.items():
            style = {"color": COLOURS.get(name), "marker": "o", "ms": 3, "lw": 1, "label": name}
            style |= kwargs
            orbit.plot(*path.T, **style)
            energy.plot(self.step_size * np.arange(len(path)), self.energies[name], **style)
        reach = 1.05 * max(np.abs(path).max() for path in self.paths.values())
        orbit.set(xlabel="position q", ylabel="momentum p", title=f"step size {self.step_size:g}")
        orbit.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        energy.set(xlabel="time", ylabel="H(q, p)", title="energy")
        if max(values.max() for values in self.energies.values()) > 10 * first:
            energy.set_yscale("log")
        energy.legend(fontsize="small")
        self.ax_ = one_or_all(axes)
        return self


def _euler(q: float, p: float, epsilon: float) -> tuple[float, float]:
    return q + epsilon * p, p - epsilon * q


def _modified_euler(q: float, p: float, epsilon: float) -> tuple[float, float]:
    p = p - epsilon * q
    return q + epsilon * p, p


def _leapfrog(q: float, p: float, epsilon: float) -> tuple[float, float]:
    p = p - 0.5 * epsilon * q
    q = q + epsilon * p
    return q, p - 0.5 * epsilon * q


STEPS = {"Euler": _euler, "modified Euler": _modified_euler, "leapfrog": _leapfrog}
COLOURS = {"Euler": "#d95f02", "modified Euler": "#7570b3", "leapfrog": "#1b9e77"}
