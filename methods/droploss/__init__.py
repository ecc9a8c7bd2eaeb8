"""DropLoss with sigmoids, as released with GOL."""
