"""What users would pick instead of TaskFlow, as small applications: see docs/performance.md."""
