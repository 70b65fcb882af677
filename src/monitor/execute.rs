//! What the commands do.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::command::{Action, Command, HELP};
use super::report;
use crate::address::CpuId;
use crate::backend::Backend;
use crate::hypervisor::Hypervisor;
use crate::virtio::balloon::PAGE;
use crate::vm::{State, Transition, Vm};

/// Obeys a command and gives the answer. The focus of the terminal moves only for whoever sits there,
/// on the `terminal`.
pub(super) fn execute<B: Backend>(
    hypervisor: &Hypervisor<B>,
    command: &Command,
    terminal: bool,
) -> String {
    answer(hypervisor, command, terminal).unwrap_or_else(|reason| format!("{reason}\n"))
}

fn answer<B: Backend>(
    hypervisor: &Hypervisor<B>,
    command: &Command,
    terminal: bool,
) -> Result<String, String> {
    let vms = hypervisor.vms();
    Ok(match command {
        Command::Help => HELP.into(),
        Command::Vms => report::machines(hypervisor, &vms),
        Command::Control(action, name) => {
            let (_, vm) = find(&vms, name)?;
            control(hypervisor, vm, *action)?
        }
        Command::Stats(None) => {
            format!("{}{}", report::statistics(hypervisor, &vms), report::uplinks(hypervisor))
        }
        Command::Stats(Some(name)) => {
            let (_, vm) = find(&vms, name)?;
            report::statistics(hypervisor, core::slice::from_ref(vm))
        }
        Command::Trace { cpu, raw } => {
            let cpus: Vec<usize> = match cpu {
                Some(cpu) if *cpu >= hypervisor.cpus() => {
                    return Err(format!(
                        "trace: no host CPU {cpu}; there are 0 to {}",
                        hypervisor.cpus().saturating_sub(1)
                    ));
                }
                Some(cpu) => [*cpu].into(),
                None => (0..hypervisor.cpus()).collect(),
            };
            cpus.into_iter().map(|cpu| report::trace(hypervisor, &vms, CpuId(cpu), *raw)).collect()
        }
        Command::Mem => report::memory(hypervisor, &vms),
        Command::Balloon(name, bytes) => {
            let (_, vm) = find(&vms, name)?;
            balloon(hypervisor, vm, *bytes)?
        }
        Command::Log => {
            let mut text = hypervisor.console.history().join("\n");
            text.push('\n');
            text
        }
        Command::Console(_) if !terminal => {
            return Err("console: only whoever sits at the terminal moves its focus".into());
        }
        Command::Console(name) => {
            let (number, _) = find(&vms, name)?;
            hypervisor.console.focus_machine(number);
            String::new()
        }
        Command::PowerOff => {
            for vm in &vms {
                hypervisor.ask(vm, Transition::Off);
            }
            hypervisor.stay_on(false);
            "the host turns off when all VMs are\n".into()
        }
    })
}

/// The virtual machine with this name or, from 1, number.
fn find<'v, B: Backend>(
    vms: &'v [Arc<Vm<B>>],
    name: &str,
) -> Result<(usize, &'v Arc<Vm<B>>), String> {
    let number = name.parse::<usize>().ok().and_then(|number| number.checked_sub(1));
    vms.iter()
        .enumerate()
        .find(|(place, vm)| vm.config.name == name || Some(*place) == number)
        .ok_or_else(|| format!("no VM {name:?}; `vms` lists them"))
}

/// Asks a virtual machine to make do with `bytes` of memory.
fn balloon<B: Backend>(
    hypervisor: &Hypervisor<B>,
    vm: &Vm<B>,
    bytes: u64,
) -> Result<String, String> {
    let (name, all) = (&vm.config.name, vm.config.memory);
    let Some(balloon) = vm.balloon() else {
        return Err(format!("vm \"{name}\" has no balloon; its VM file needs `balloon = true`"));
    };
    if !(1..=all).contains(&bytes) {
        return Err(format!("vm \"{name}\": give it up to {} MiB", all >> 20));
    }
    let (more, free) =
        (bytes.saturating_sub(vm.present_memory()), hypervisor.backend.free_memory());
    if more > free {
        return Err(format!(
            "vm \"{name}\": {} MiB more are needed, but {} MiB of the host are free",
            more.div_ceil(1 << 20),
            free >> 20
        ));
    }
    let pages = all.saturating_sub(bytes).checked_div(PAGE).unwrap_or(0);
    balloon.set_target(u32::try_from(pages).unwrap_or(u32::MAX));
    Ok(format!("vm \"{name}\": asked for {} MiB; `mem` shows what it has\n", bytes >> 20))
}

fn control<B: Backend>(
    hypervisor: &Hypervisor<B>,
    vm: &Arc<Vm<B>>,
    action: Action,
) -> Result<String, String> {
    let name = &vm.config.name;
    let state = vm.state();
    let refused = |advice: &str| Err(format!("vm \"{name}\" {}; {advice}", report::state(state)));
    match (action, state) {
        (Action::Start, State::Created | State::Stopped) => hypervisor.start(vm),
        (Action::Start, State::Paused(_)) => return refused("`resume` lets it go on"),
        (Action::Start, _) => return refused("`reset` restarts it"),
        (Action::Resume, State::Paused(_)) => {
            vm.resume(&hypervisor.backend);
        }
        (Action::Resume, _) => return refused("only a paused one can be resumed"),
        (Action::Request(Transition::Pause), State::Running)
        | (
            Action::Request(Transition::Off | Transition::Reset | Transition::Crash),
            State::Running | State::Paused(_),
        ) => {
            let Action::Request(transition) = action else { return Ok(String::new()) };
            if transition == Transition::Off {
                // Whoever stops the last one by hand may want to start it again.
                hypervisor.stay_on(true);
            }
            hypervisor.ask(vm, transition);
        }
        (Action::Request(_), State::Created | State::Stopped) => {
            return refused("`start` starts it");
        }
        (Action::Request(_), _) => return refused("try again in a moment"),
    }
    Ok(String::new())
}
