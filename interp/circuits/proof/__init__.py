"""What a circuit does by itself, beside what chance does."""
