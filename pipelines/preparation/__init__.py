"""What is done before a run is computed: training what is missing, choosing layers, setting the strength of noise."""
