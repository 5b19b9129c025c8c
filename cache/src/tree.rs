//! Directory trees as canonical `Directory` messages (Remote Execution API).
