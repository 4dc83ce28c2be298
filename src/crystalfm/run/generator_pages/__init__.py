"""The pages of what generators leave: trainings, samples, judged samples, designs of defects."""
