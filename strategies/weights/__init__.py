"""Methods that average the weights of whole networks."""
