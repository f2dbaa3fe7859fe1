"""The contract between the exporter and the servers, which both import; it imports neither."""
