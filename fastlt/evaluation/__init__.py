"""What is done with a finished run: metrics, export, the report. Loads without DeepSpeed."""
