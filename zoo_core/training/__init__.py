"""Training: data, loss, loop. `zoo train` is the command in front of it."""
