//! The methods that are counted.

use peft_burn::{AdaLoraConfig, Ia3Config, LoraConfig, PeftConfig, TargetModules, VeraConfig};

/// An adapter and the modules that it is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// LoRA on all seven projections.
    LoraAll,
    /// LoRA on q and v.
    LoraQv,
    /// DoRA on all seven.
    DoraAll,
    /// AdaLoRA on all seven.
    AdaLoraAll,
    /// VeRA on q and o, which are of one shape where heads share keys too.
    Vera,
    /// (IA)³ on k, v and down.
    Ia3,
}

impl Method {
    pub const ALL: [Self; 6] = [Self::LoraAll, Self::LoraQv, Self::DoraAll, Self::AdaLoraAll, Self::Vera, Self::Ia3];

    /// As `--method` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::LoraAll => "lora_all",
            Self::LoraQv => "lora_qv",
            Self::DoraAll => "dora_all",
            Self::AdaLoraAll => "adalora_all",
            Self::Vera => "vera_qo",
            Self::Ia3 => "ia3",
        }
    }
}

/// The adapter of a method at rank `r`, for a run of `steps` steps.
pub fn adapter(method: Method, r: usize) -> PeftConfig {
    let all = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
    let lora = |modules: &[&str], use_dora| {
        let target_modules = TargetModules::list(modules.iter().copied());
        PeftConfig::Lora(LoraConfig { r, target_modules, use_dora, ..LoraConfig::default() })
    };
    match method {
        Method::LoraAll => lora(&all, false),
        Method::LoraQv => lora(&["q_proj", "v_proj"], false),
        Method::DoraAll => lora(&all, true),
        Method::AdaLoraAll => PeftConfig::AdaLora(AdaLoraConfig {
            init_r: r,
            target_r: r.div_ceil(2),
            tinit: 1,
            tfinal: 1,
            delta_t: 100,
            target_modules: TargetModules::list(all),
            ..AdaLoraConfig::default()
        }),
        Method::Vera => PeftConfig::Vera(VeraConfig {
            r,
            target_modules: TargetModules::list(["q_proj", "o_proj"]),
            ..VeraConfig::default()
        }),
        Method::Ia3 => PeftConfig::Ia3(Ia3Config {
            target_modules: TargetModules::list(["k_proj", "v_proj", "down_proj"]),
            ..Ia3Config::default()
        }),
    }
}
