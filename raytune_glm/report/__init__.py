"""What a sweep leaves for people and programs: leaderboard, summary, winner, and their origin."""
