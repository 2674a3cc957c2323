"""The reference networks of the benchmarks, trained to their plateau; nothing that the package ships."""
