"""``odin-rm serve``: one reward, asked for in the protocols of all clients."""
