"""Variational autoencoders: densities, samples, latent features, anomalies."""
