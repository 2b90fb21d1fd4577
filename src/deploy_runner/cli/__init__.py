"""The command line `deploy-runner`."""
