"""What tests share: places, servers, builders of small inputs."""
