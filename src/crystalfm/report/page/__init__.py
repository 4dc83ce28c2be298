"""The run's page: one HTML file that shows a run, made of plain data, without a request to anywhere."""
