"""Every configuration model. Strict: an unknown key is an error that names the valid ones."""
