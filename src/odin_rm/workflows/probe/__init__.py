"""What a reward can be bought with: edits of responses and of prompts."""
