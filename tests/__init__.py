"""The tests of mojd."""
