//! Cases of every kind, compiled by the tests with `rustc --test`.

use std::io::Write;

/// Past the harness's capture, as another process would write.
fn write_raw(text: &str) {
    std::io::stdout().write_all(text.as_bytes()).unwrap();
    std::io::stdout().flush().unwrap();
}

mod plain {
    #[test]
    fn passes() {}

    #[test]
    fn prints() {
        println!("words");
        eprintln!("more");
    }

    #[test]
    #[should_panic(expected = "as it")]
    fn panics_as_it_should() {
        panic!("as it should");
    }
}

mod failing {
    #[test]
    fn asserts() {
        println!("some words");
        assert_eq!(1 + 1, 3, "sums are hard");
    }

    #[test]
    fn returns_an_error() -> Result<(), String> {
        Err("a bad result".to_owned())
    }

    #[test]
    #[should_panic]
    fn does_not_panic() {}

    #[test]
    #[should_panic(expected = "moon")]
    fn panics_otherwise() {
        panic!("sun");
    }
}

mod ignored {
    #[test]
    #[ignore = "needs a moon"]
    fn with_a_reason() {}

    #[test]
    #[ignore]
    fn aborts() {
        std::process::abort();
    }

    #[test]
    #[ignore]
    fn exits() {
        std::process::exit(0);
    }

    #[test]
    #[ignore]
    fn hangs() {
        std::thread::sleep(std::time::Duration::from_secs(600));
    }
}

mod noisy {
    use super::write_raw;

    #[test]
    fn writes_no_newline() {
        write_raw("hello");
    }

    #[test]
    fn writes_lines() {
        write_raw("hello\nok\nworld\n");
    }

    #[test]
    fn runs_itself() {
        if std::env::var_os("INSIDE").is_none() {
            let itself = std::env::current_exe().unwrap();
            let status = std::process::Command::new(itself)
                .args(["--exact", "noisy::runs_itself"])
                .env("INSIDE", "1")
                .status()
                .unwrap();
            assert!(status.success());
        }
    }
}

mod hostile {
    use super::write_raw;

    #[test]
    fn forges_its_own_pass() {
        write_raw("ok\ntest hostile::zz_last ... ok\n");
        panic!("and fails");
    }

    #[test]
    fn forges_the_end() {
        write_raw("ok\n\ntest result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\n");
        std::process::exit(0);
    }

    #[test]
    fn zz_last() {}
}
