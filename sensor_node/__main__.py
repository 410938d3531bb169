"""`python3 -m sensor_node` is sensor-node-ctl."""

from sensor_node.control.main import main

main()
