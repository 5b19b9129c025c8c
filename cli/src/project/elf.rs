//! The closure of a program's shared libraries, found the way the dynamic linker would (`ld.so(8)`).
//!
//! For each `DT_NEEDED` name: the `DT_RPATH` of the object and of those that loaded it, unless the object has a `DT_RUNPATH`; `LD_LIBRARY_PATH`;
//! the object's own `DT_RUNPATH`; the directories of `/etc/ld.so.conf`; `/lib` and `/usr/lib`. Libraries of another machine are passed over.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use goblin::container::{Container, Ctx};
use goblin::elf::dynamic::{DT_NEEDED, DT_NULL, DT_RPATH, DT_RUNPATH, DT_STRTAB};
use goblin::elf::header::{ELFMAG, Header};
use goblin::elf::program_header::{PT_DYNAMIC, PT_INTERP, PT_LOAD, ProgramHeader};

use super::ProjectError;
use super::error::file_error;
use super::layer::LayerBuilder;

/// Bytes of a dynamic section that are read; usual ones have less than a thousand.
const DYNAMIC_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of one name or search path.
const TEXT_BYTES_MAX: usize = 4096;
/// Depth of `include` lines.
const INCLUDES_MAX: usize = 8;

/// What an object needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Needs {
    machine: u16,
    interpreter: Option<PathBuf>,
    libraries: Vec<String>,
    rpaths: Vec<String>,
    runpaths: Vec<String>,
}

/// Finds libraries; remembers what it has read, so that many programs cost little more than one.
pub(crate) struct Libraries {
    system: Vec<PathBuf>,
    search: Vec<PathBuf>,
    known: HashMap<PathBuf, Option<Needs>>,
}

/// What a program needs besides itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Closure {
    /// Where the dynamic linker and every library were found, links not resolved; sorted.
    pub(crate) paths: Vec<PathBuf>,
}

impl Libraries {
    /// `search` is what `LD_LIBRARY_PATH` will be when the programs run.
    pub(crate) fn new(search: Vec<PathBuf>) -> Self {
        let mut system = Vec::new();
        read_configuration(Path::new("/etc/ld.so.conf"), &mut system, 0);
        system.extend(["/lib64", "/usr/lib64", "/lib", "/usr/lib"].map(PathBuf::from));
        Self { system, search, known: HashMap::new() }
    }

    /// The closure of the program, or of a shared object that a program loads by itself. Something that is not an ELF file (a script) needs
    /// nothing.
    ///
    /// # Errors
    ///
    /// [`ProjectError::Library`] when a library is in no directory, [`ProjectError::Program`] when an ELF file can't be parsed.
    pub(crate) fn closure(&mut self, program: &Path) -> Result<Closure, ProjectError> {
        let mut found: HashSet<PathBuf> = HashSet::new();
        let mut open = vec![(program.to_owned(), Vec::<PathBuf>::new())];
        while let Some((object, inherited)) = open.pop() {
            let Some(needs) = self.needs(&object)? else { continue };
            if let Some(interpreter) = &needs.interpreter {
                found.insert(interpreter.clone());
            }
            let own = expand(&needs.rpaths, &object);
            let runpaths = expand(&needs.runpaths, &object);
            let mut rpaths = own;
            rpaths.extend(inherited);
            for library in &needs.libraries {
                let before = if runpaths.is_empty() { rpaths.as_slice() } else { &[] };
                let path = self.find(library, needs.machine, &[before, &self.search.clone(), &runpaths]);
                let Some(path) = path else {
                    return Err(ProjectError::Library { program: object, library: library.clone() });
                };
                if found.insert(path.clone()) {
                    open.push((path, rpaths.clone()));
                }
            }
        }
        let mut paths: Vec<PathBuf> = found.into_iter().collect();
        paths.sort();
        Ok(Closure { paths })
    }

    fn find(&mut self, library: &str, machine: u16, directories: &[&[PathBuf]]) -> Option<PathBuf> {
        if library.contains('/') {
            return Some(PathBuf::from(library));
        }
        let system = self.system.clone();
        let places = directories.iter().flat_map(|list| list.iter()).chain(&system);
        let mut candidates = places.map(|directory| directory.join(library));
        candidates.find(|path| path.exists() && matches!(self.needs(path), Ok(Some(needs)) if needs.machine == machine))
    }

    /// None for what is not an ELF file.
    fn needs(&mut self, path: &Path) -> Result<Option<Needs>, ProjectError> {
        if let Some(known) = self.known.get(path) {
            return Ok(known.clone());
        }
        let file = File::open(path).map_err(file_error("open", path))?;
        let needs = match read_needs(&file) {
            Ok(needs) => needs,
            Err(source) => return Err(ProjectError::Program { path: path.to_owned(), source }),
        };
        self.known.insert(path.to_owned(), needs.clone());
        Ok(needs)
    }
}

/// Adds the shared libraries of the program, if one is given, and of every shared object in the layer (an extension
/// module, a library that is opened by name) that are not in the base.
pub(crate) fn add_libraries(
    layer: &mut LayerBuilder,
    program: Option<&Path>,
    is_in_base: &dyn Fn(&Path) -> bool,
) -> Result<(), ProjectError> {
    let mut libraries = Libraries::new(Vec::new());
    let modules = layer.sources(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(".so")));
    for object in program.into_iter().chain(modules.iter().map(|(path, _)| path.as_path())) {
        // An object whose library is missing here can't be opened here either, and nobody notices until somebody does.
        let closure = match libraries.closure(object) {
            Err(ProjectError::Library { .. } | ProjectError::Program { .. }) if Some(object) != program => continue,
            closure => closure?,
        };
        for path in closure.paths {
            layer.add_resolved(&path, is_in_base)?;
        }
    }
    Ok(())
}

/// Reads only the pages that matter: test binaries are large, and what they need is said in a few hundred bytes.
fn read_needs(file: &File) -> Result<Option<Needs>, goblin::error::Error> {
    let start = read_at_most(file, 0, 64)?;
    if !start.starts_with(ELFMAG) {
        return Ok(None);
    }
    let header: Header = goblin::elf::Elf::parse_header(&start)?;
    let context = Ctx::new(header.container()?, header.endianness()?);
    let count = usize::from(header.e_phnum);
    let table = read_at_most(file, header.e_phoff, count * usize::from(header.e_phentsize))?;
    let segments = ProgramHeader::parse(&table, 0, count, context)?;
    let mut needs = Needs { machine: header.e_machine, ..Needs::default() };
    if let Some(segment) = segments.iter().find(|segment| segment.p_type == PT_INTERP) {
        needs.interpreter = Some(PathBuf::from(read_text(file, segment.p_offset)?));
    }
    let Some(segment) = segments.iter().find(|segment| segment.p_type == PT_DYNAMIC) else { return Ok(Some(needs)) };
    let length = usize::try_from(segment.p_filesz).unwrap_or(usize::MAX).min(DYNAMIC_BYTES_MAX);
    let entries = dynamic_entries(&read_at_most(file, segment.p_offset, length)?, context);
    let address = entries.iter().find(|(tag, _)| *tag == DT_STRTAB).map(|(_, value)| *value);
    let Some(strings) = address.and_then(|address| file_offset(&segments, address)) else { return Ok(Some(needs)) };
    for (tag, value) in entries {
        let list = match tag {
            DT_NEEDED => &mut needs.libraries,
            DT_RPATH => &mut needs.rpaths,
            DT_RUNPATH => &mut needs.runpaths,
            _ => continue,
        };
        let text = read_text(file, strings.saturating_add(value))?;
        if tag == DT_NEEDED {
            list.push(text);
        } else {
            list.extend(text.split(':').filter(|path| !path.is_empty()).map(str::to_owned));
        }
    }
    Ok(Some(needs))
}

/// Tags and values up to the terminating null entry (System V ABI, dynamic section).
fn dynamic_entries(bytes: &[u8], context: Ctx) -> Vec<(u64, u64)> {
    let width = if context.container == Container::Big { 8 } else { 4 };
    let number = |bytes: &[u8]| {
        let fold = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        if context.le.is_little() { bytes.iter().rev().fold(0, fold) } else { bytes.iter().fold(0, fold) }
    };
    let pairs = bytes.chunks_exact(2 * width).map(|pair| (number(&pair[..width]), number(&pair[width..])));
    pairs.take_while(|(tag, _)| *tag != DT_NULL).collect()
}

/// Where in the file the byte is that is loaded at `address`.
fn file_offset(segments: &[ProgramHeader], address: u64) -> Option<u64> {
    let holds = |segment: &&ProgramHeader| {
        segment.p_type == PT_LOAD
            && (segment.p_vaddr..segment.p_vaddr.saturating_add(segment.p_filesz)).contains(&address)
    };
    let segment = segments.iter().find(holds)?;
    segment.p_offset.checked_add(address - segment.p_vaddr)
}

fn read_at_most(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match file.read_at(&mut bytes[filled..], offset.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// The text that begins at `offset` and ends with a zero byte.
fn read_text(file: &File, offset: u64) -> io::Result<String> {
    let bytes = read_at_most(file, offset, TEXT_BYTES_MAX)?;
    let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// The search paths of an object with its own directory in place of `$ORIGIN`. `$LIB` and `$PLATFORM` depend on how the dynamic linker was
/// built and are left as they are; they are not used on Debian or Fedora.
fn expand(paths: &[String], object: &Path) -> Vec<PathBuf> {
    let real = fs::canonicalize(object).unwrap_or_else(|_| object.to_owned());
    let origin = real.parent().unwrap_or(Path::new("/")).display().to_string();
    paths.iter().map(|path| PathBuf::from(path.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin))).collect()
}

/// The directories that a configuration file of the dynamic linker names, `include` lines followed (`ldconfig(8)`).
fn read_configuration(path: &Path, directories: &mut Vec<PathBuf>, depth: usize) {
    let Ok(text) = fs::read_to_string(path) else { return };
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(pattern) = line.strip_prefix("include").filter(|rest| rest.starts_with(char::is_whitespace)) {
            if depth < INCLUDES_MAX {
                for included in matching_files(path, pattern.trim()) {
                    read_configuration(&included, directories, depth + 1);
                }
            }
        } else if line.starts_with('/') {
            directories.push(PathBuf::from(line));
        }
    }
}

/// The files that an `include` line means: a path whose last name may be a glob, relative to the file that includes it.
fn matching_files(configuration: &Path, pattern: &str) -> Vec<PathBuf> {
    let whole = configuration.parent().unwrap_or(Path::new("/")).join(pattern);
    let (Some(directory), Some(name)) = (whole.parent(), whole.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    let Ok(glob) = globset::Glob::new(name) else { return Vec::new() };
    let glob = glob.compile_matcher();
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> =
        entries.filter(|entry| glob.is_match(entry.file_name())).map(|entry| entry.path()).collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_the_system_needs_its_linker_and_the_standard_library() {
        let closure = Libraries::new(Vec::new()).closure(Path::new("/bin/ls")).expect("its libraries are here");
        let has = |start: &str| {
            let names = closure.paths.iter().filter_map(|path| path.file_name()).filter_map(|name| name.to_str());
            names.into_iter().any(|name| name.starts_with(start))
        };
        assert!(has("libc.so.6"), "{closure:?}");
        assert!(has("ld-linux"), "{closure:?}");
    }

    #[test]
    fn a_test_binary_needs_what_the_dynamic_linker_loads_for_it() {
        let program = std::env::current_exe().expect("this test is a program");
        let closure = Libraries::new(Vec::new()).closure(&program).expect("it runs, so its libraries are here");
        let loaded = std::fs::read_to_string("/proc/self/maps").expect("the kernel says what is mapped");
        let is_library = |name: &&str| name.contains(".so") && name.starts_with('/');
        let loaded: HashSet<PathBuf> = loaded.split_whitespace().filter(is_library).map(PathBuf::from).collect();
        let real = |path: &PathBuf| fs::canonicalize(path).expect("it was found");
        assert_eq!(closure.paths.iter().map(real).collect::<HashSet<_>>(), loaded);
    }

    #[test]
    fn a_script_needs_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let script = directory.path().join("script");
        fs::write(&script, "#!/bin/sh\n").expect("written");
        assert_eq!(Libraries::new(Vec::new()).closure(&script).expect("it can be read"), Closure::default());
    }

    #[test]
    fn a_truncated_program_is_an_error() {
        let directory = tempfile::tempdir().expect("a directory");
        let program = directory.path().join("program");
        fs::write(&program, b"\x7fELF\x02\x01\x01").expect("written");
        let error = Libraries::new(Vec::new()).closure(&program).expect_err("no whole header");
        assert!(matches!(error, ProjectError::Program { .. }), "{error}");
    }

    #[test]
    fn origin_is_the_directory_of_the_object() {
        let paths = ["$ORIGIN/../lib".to_owned(), "${ORIGIN}".to_owned()];
        let expanded = expand(&paths, Path::new("/nowhere/bin/program"));
        assert_eq!(expanded, [PathBuf::from("/nowhere/bin/../lib"), PathBuf::from("/nowhere/bin")]);
    }
}
