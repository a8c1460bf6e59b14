"""What real peer packages make of an exported reward model, beside ``odin-rm score`` (docs/interop.md)."""
