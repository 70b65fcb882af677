//! The Test Anything Protocol, version 13.

/// Why a test did not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It failed; the reason has been printed as a diagnostic line.
    Failed,
    /// It has nothing to test on this machine, and why.
    Skip(&'static str),
}

/// How a test ends.
pub type Verdict = Result<(), Stop>;

/// One test.
#[derive(Clone, Copy)]
pub struct Test {
    /// A sentence about behaviour.
    pub name: &'static str,
    /// The test.
    pub run: fn() -> Verdict,
}

/// Makes a [`Test`] out of a name and a function.
pub const fn test(name: &'static str, run: fn() -> Verdict) -> Test {
    Test { name, run }
}

/// Fails the test with a diagnostic line unless the condition holds.
#[macro_export]
macro_rules! check {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            $crate::println!(
                "# {}:{}: {}", ::core::file!(), ::core::line!(), ::core::format_args!($($message)+)
            );
            return Err($crate::tap::Stop::Failed);
        }
    };
}

/// Fails the test with a diagnostic line unless both values are equal.
#[macro_export]
macro_rules! check_eq {
    ($found:expr, $expected:expr, $($message:tt)+) => {{
        let (found, expected) = ($found, $expected);
        $crate::check!(
            found == expected, "{}: {found:#x?}, expected {expected:#x?}",
            ::core::format_args!($($message)+)
        );
    }};
}

/// Runs every test, `before` ahead of each, and prints plan and results.
/// Returns how many failed.
#[cfg(target_os = "none")]
pub fn run(tests: &[Test], before: fn()) -> usize {
    crate::println!("TAP version 13");
    crate::println!("1..{}", tests.len());
    let mut failed = 0;
    for (index, test) in tests.iter().enumerate() {
        let number = index + 1;
        before();
        match (test.run)() {
            Ok(()) => crate::println!("ok {number} - {}", test.name),
            Err(Stop::Skip(reason)) => {
                crate::println!("ok {number} - {} # SKIP {reason}", test.name);
            }
            Err(Stop::Failed) => {
                failed += 1;
                crate::println!("not ok {number} - {}", test.name);
            }
        }
    }
    failed
}
