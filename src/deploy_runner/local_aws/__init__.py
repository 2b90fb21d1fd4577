"""AWS on one machine: moto's server, extended where moto lacks. Nothing but the CLI and the tests imports it."""
