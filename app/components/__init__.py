"""Pieces that every page of the dashboard uses: page frame, filters, figures, help, cards, downloads, states."""
