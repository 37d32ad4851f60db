"""Studies: grids of runs, worker processes, statistics over seeds, plots and reports."""
