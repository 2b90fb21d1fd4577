"""The deploy runner: deploys apps to Amazon ECS from GitHub, with no AWS keys in CI."""
