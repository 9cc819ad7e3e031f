"""Questions about training that publish nothing: which settings, which learning rate."""
