"""The dial: a curve of attributes that is taken off a reward in the share that an anchor asks for."""
