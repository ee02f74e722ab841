"""Sample training windows, with masks, from gigapixel images."""
