"""The dashboard: reads published generations, draws them, never imports torch."""
