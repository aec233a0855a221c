"""What a cell can change: names, the values behind them, and the process around them."""
