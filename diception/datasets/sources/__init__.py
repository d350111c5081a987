"""Raw public data sets turned into samples, one file per data set."""
