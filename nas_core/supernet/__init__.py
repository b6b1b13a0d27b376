"""The modules: the completely connected supernet and the networks that are cut from it."""
