"""The tank case study: the legend of the detector that had learnt the weather, made measurable."""
