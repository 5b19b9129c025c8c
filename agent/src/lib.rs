//! The agent: stages inputs, runs attempts in environments, reports what happened.
