"""
Why the leapfrog method
=======================

Hamiltonian Monte Carlo moves the weights as a ball rolls over the negative log posterior: a
position q with a momentum p. The energy

.. math:: H(q, p) = -\\log p(q \\mid D) + \\tfrac12 p^2

stays constant on the exact path. A computer follows the path in small steps, and makes an error.
A proposal is accepted with probability :math:`\\min(1, e^{H - H'})`, so the energy must
not drift. Here the posterior is a standard normal, whose paths are circles.
"""

# %%
# Euler's method gains energy in every step and spirals outwards. The modified Euler method and
# the leapfrog method keep the volume of the (q, p) plane. So their energies swing but do not
# drift. The error of the leapfrog method falls with the square of the step size.

import matplotlib.pyplot as plt

from skbayes.plotting import OrbitDisplay

OrbitDisplay.from_orbit(step_size=0.3, n_steps=20)
plt.show()

# %%
# Above a step size of 2 the leapfrog method is unstable too. Just below that it is stable,
# though its path is far from the circle. In `HMC` the step size is tuned while warming up.

display = OrbitDisplay.from_orbit(step_size=1.2, n_steps=20)
display.ax_[0].set(xlim=(-2, 2), ylim=(-2, 2))
plt.show()

for name, energy in display.energies.items():
    print(f"{name:15s} energy from {energy.min():.3f} to {energy.max():.3g}")
