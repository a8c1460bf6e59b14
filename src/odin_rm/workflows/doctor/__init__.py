"""Whether this machine can run the commands: versions, accelerator, extras, memory, places to write."""
