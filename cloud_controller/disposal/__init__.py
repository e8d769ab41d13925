"""Takes down everything that carries an instance's label, proves that nothing is left, and sweeps what nobody owns."""
