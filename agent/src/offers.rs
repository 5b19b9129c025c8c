//! What this machine can offer: found by trying, once, before the agent connects.

use std::path::PathBuf;
use std::sync::Arc;

use muster_environment::base::HostBase;
use muster_environment::{
    BaseConfig, DockerConfig, DockerEnvironment, Environment, EnvironmentError, HostConfig, HostEnvironment,
    SandboxConfig, SandboxEnvironment,
};
use muster_model::platform::{EnvironmentKind, Offer, Weakness};

use crate::data::DataDirectory;
use crate::{AgentError, Config};

/// The environments that work here, and what to tell the coordinator of them.
pub(crate) struct Offered {
    pub(crate) environments: Vec<Arc<dyn Environment>>,
    pub(crate) offer: Offer,
    /// The user and group that staged files must belong to.
    pub(crate) owner: Option<(u32, u32)>,
}

impl Offered {
    /// Tries every configured kind. Identifying the base reads the host's files when nothing is remembered of them.
    pub(crate) async fn find(config: &Config, data: &DataDirectory) -> Result<Self, AgentError> {
        let (directory, own) = (data.environments()?, data.sandbox());
        let mut base_config = BaseConfig::default();
        if let Some(cache) = &config.base_cache {
            base_config.cache_dir.clone_from(cache);
        }
        let known_base = config.base.clone();
        let wanted = config.environments.clone();
        let allowed = config.allow_without.clone();
        let docker = config.docker.clone().map(|socket| {
            let shared = base_config.cache_dir.join("docker");
            DockerConfig::new(socket, data.docker(), shared)
        });
        let properties = config.properties();
        let found = tokio::task::spawn_blocking(move || {
            let mut found =
                Self { environments: Vec::new(), offer: Offer { properties, ..Offer::default() }, owner: None };
            let mut refused = None;
            // Bare hosts have a base too: it is what their programs see, so that it belongs into the keys of their results.
            let base = match known_base {
                Some(base) => base,
                None => HostBase::identify(&base_config).map_err(AgentError::Base)?,
            };
            found.offer.bases.push(base.base());
            if wanted.contains(&EnvironmentKind::Sandbox) {
                let sandbox = |directory: PathBuf| {
                    let shared = SandboxConfig::new(directory);
                    SandboxEnvironment::new(SandboxConfig { base_roots: base.roots.clone(), ..shared })
                };
                // Beside what is remembered of the base, for all agents of the user; with a home that can't be written, for this one alone.
                let made = sandbox(base_config.cache_dir.join("sandbox")).or_else(|_| sandbox(own));
                match ready(made) {
                    Ok(sandbox) => {
                        found.lacks(sandbox.weaknesses(), &allowed)?;
                        found.owner = sandbox.owner();
                        found.environments.push(Arc::new(sandbox));
                    }
                    Err(error) => refused = Some(error),
                }
            }
            if let Some(docker) = docker {
                match ready(DockerEnvironment::new(DockerConfig { base_roots: base.roots.clone(), ..docker })) {
                    Ok(docker) => {
                        found.lacks(docker.weaknesses(), &allowed)?;
                        found.owner = Some(docker.owner());
                        found.environments.push(Arc::new(docker));
                    }
                    Err(error) => refused = refused.or(Some(error)),
                }
            }
            if wanted.contains(&EnvironmentKind::Host) {
                let host = HostEnvironment::new(HostConfig::new(directory.join("host")));
                match ready(host) {
                    Ok(host) => found.environments.push(Arc::new(host)),
                    Err(error) => refused = refused.or(Some(error)),
                }
            }
            found.offer.environments = found.environments.iter().map(|environment| environment.kind()).collect();
            if found.environments.is_empty() {
                let remedy = refused.as_ref().and_then(remedy);
                return Err(AgentError::NoEnvironment { remedy, source: refused });
            }
            Ok(found)
        });
        match found.await {
            Ok(found) => found,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
}

impl Offered {
    /// Notes the walls that a driver's environments lack: whatever the agent runs says so then.
    fn lacks(&mut self, weaknesses: Vec<Weakness>, allowed: &[Weakness]) -> Result<(), AgentError> {
        for weakness in weaknesses {
            if !allowed.contains(&weakness) {
                return Err(AgentError::Weaker(weakness));
            }
            if !self.offer.without.contains(&weakness) {
                self.offer.without.push(weakness);
            }
        }
        Ok(())
    }
}

/// A driver that was tried, with its weaknesses and its refusal in the log.
fn ready<E: Environment>(made: Result<E, EnvironmentError>) -> Result<E, EnvironmentError> {
    let checked = made.and_then(|environment| {
        for note in environment.check_readiness()?.notes {
            tracing::warn!(environment = environment.kind().name(), note);
        }
        Ok(environment)
    });
    if let Err(error) = &checked {
        let hint = remedy(error).unwrap_or_default();
        tracing::warn!(why = crate::error_text::chain(error), hint, "an environment is not offered");
    }
    checked
}

fn remedy(error: &EnvironmentError) -> Option<String> {
    match error {
        EnvironmentError::Unsupported { remedy, .. } => Some(remedy.clone()),
        _ => None,
    }
}
