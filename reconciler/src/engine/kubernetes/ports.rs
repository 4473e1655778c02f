//! Ports: a Service that every node answers for, or an Ingress.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressRule, IngressServiceBackend, IngressSpec,
    ServiceBackendPort,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use renga_shared::api::PortBody;
use renga_shared::domain::{ExecutionId, Protocol};

use super::job::owned;
use crate::engine::{EXECUTION_LABEL, EngineSettings, Launch, object_name};

/// An ingress controller that ports are served by: `DEPLOYER_K8S_INGRESS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressHost {
    /// The IngressClass; the cluster's default without it.
    pub class: Option<String>,
    /// The host whose `/interactive/<execution id>` leads to an execution.
    pub host: String,
}

impl IngressHost {
    /// Reads `apps.example.org` or `nginx@apps.example.org`, the class before the host.
    pub fn parse(text: &str) -> Option<Self> {
        let (class, host) = text.split_once('@').map_or((None, text), |(class, host)| (Some(class), host));
        let name = |text: &str| {
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
            (1..=253).contains(&text.len()) && text.chars().all(fits) && !text.starts_with(['-', '.'])
        };
        (name(host) && class.is_none_or(name)).then(|| Self { class: class.map(str::to_owned), host: host.to_owned() })
    }
}

/// The Service of an execution with ports. Behind an ingress its ports need no port of the nodes.
pub(super) fn service(launch: &Launch, job: &Job, settings: &EngineSettings) -> Option<Service> {
    let ports = launch.spec.ports.iter().map(|port| ServicePort {
        name: Some(format!("port-{}-{}", port.number, port.protocol.as_str())),
        port: i32::from(port.number),
        protocol: Some(port.protocol.as_str().to_ascii_uppercase()),
        target_port: Some(IntOrString::Int(i32::from(port.number))),
        ..ServicePort::default()
    });
    let ports: Vec<ServicePort> = ports.collect();
    let type_ = if settings.kubernetes.ingress.is_some() { "ClusterIP" } else { "NodePort" };
    (!ports.is_empty()).then(|| Service {
        metadata: owned(launch, job, settings),
        spec: Some(ServiceSpec {
            type_: Some(type_.into()),
            selector: Some(BTreeMap::from([(EXECUTION_LABEL.to_owned(), launch.id.to_string())])),
            ports: Some(ports),
            ..ServiceSpec::default()
        }),
        status: None,
    })
}

/// The Ingress of an execution with TCP ports, where there is a controller for it. An ingress knows no other protocol.
pub(super) fn ingress(launch: &Launch, job: &Job, settings: &EngineSettings) -> Option<Ingress> {
    let at = settings.kubernetes.ingress.as_ref()?;
    let tcp: Vec<u16> =
        launch.spec.ports.iter().filter(|port| port.protocol == Protocol::Tcp).map(|port| port.number).collect();
    let path = |port: &u16| HTTPIngressPath {
        path: Some(path(launch.id, *port, tcp.first())),
        path_type: "Prefix".into(),
        backend: IngressBackend {
            service: Some(IngressServiceBackend {
                name: object_name(launch.id),
                port: Some(ServiceBackendPort { number: Some(i32::from(*port)), name: None }),
            }),
            resource: None,
        },
    };
    let rule = IngressRule {
        host: Some(at.host.clone()),
        http: Some(HTTPIngressRuleValue { paths: tcp.iter().map(path).collect() }),
    };
    (!tcp.is_empty()).then(|| Ingress {
        metadata: owned(launch, job, settings),
        spec: Some(IngressSpec {
            ingress_class_name: at.class.clone(),
            rules: Some(vec![rule]),
            ..IngressSpec::default()
        }),
        status: None,
    })
}

/// The first TCP port has the path that links are made of, a further one a path below it.
fn path(id: ExecutionId, port: u16, first: Option<&u16>) -> String {
    if first == Some(&port) { format!("/interactive/{id}") } else { format!("/interactive/{id}/{port}") }
}

/// What is kept of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServiceSeen {
    pub(super) namespace: String,
    pub(super) uid: String,
    /// The ports of the nodes that it was given, by its own ports: `8080/tcp`.
    pub(super) node_ports: BTreeMap<String, u16>,
}

impl ServiceSeen {
    pub(super) fn of(service: &Service) -> Option<Self> {
        let (namespace, uid) = (service.metadata.namespace.clone()?, service.metadata.uid.clone()?);
        Some(Self { namespace, uid, node_ports: node_ports(service) })
    }
}

fn node_ports(service: &Service) -> BTreeMap<String, u16> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let given = ports.filter_map(|port| {
        let protocol = port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase();
        Some((format!("{}/{protocol}", port.port), u16::try_from(port.node_port?).ok()?))
    });
    given.collect()
}

/// Ports as they can be reached, in the order of the specification.
pub(super) fn reached(
    id: ExecutionId,
    specified: &[String],
    service: Option<&ServiceSeen>,
    node: Option<&str>,
    settings: &EngineSettings,
) -> Vec<PortBody> {
    let own = settings.kubernetes.container_ip.map(|address| address.to_string());
    let host = own.or_else(|| node.map(str::to_owned));
    let tcp = |key: &&String| key.ends_with("/tcp");
    let first = specified.iter().find(tcp).and_then(|key| key.split_once('/')?.0.parse::<u16>().ok());
    let port = |key: &String| {
        let (number, protocol) = key.split_once('/')?;
        let body = |host: String, exposed: String, path: Option<String>| PortBody {
            specified: number.to_owned(),
            host,
            exposed,
            protocol: protocol.to_ascii_uppercase(),
            path,
        };
        match &settings.kubernetes.ingress {
            Some(_) if protocol != "tcp" => None,
            Some(at) => {
                let path = path(id, number.parse().ok()?, first.as_ref());
                Some(body(at.host.clone(), "80".into(), Some(path)))
            }
            None => Some(body(host.clone()?, service?.node_ports.get(key)?.to_string(), None)),
        }
    };
    specified.iter().filter_map(port).collect()
}

/// The ports of an annotation.
pub(super) fn specified(annotation: Option<&String>) -> Vec<String> {
    annotation.map(|ports| ports.split(',').map(str::to_owned).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use renga_shared::domain::Timestamp;

    use super::*;

    #[test]
    fn ingress_hosts_are_read() {
        let read = |text: &str| IngressHost::parse(text).map(|at| (at.class, at.host));
        assert_eq!(read("apps.example.org"), Some((None, "apps.example.org".into())));
        assert_eq!(read("nginx@apps.example.org"), Some((Some("nginx".into()), "apps.example.org".into())));
        for bad in ["", "@a", "nginx@", "https://a", "a/b", "A.b", "-a"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn ports_are_told_as_they_are_reached() {
        let id = ExecutionId::new(Timestamp(1), [7; 8]);
        let mut settings = EngineSettings {
            deployment: "d".into(),
            host_paths: vec![],
            container_ip: std::net::Ipv4Addr::LOCALHOST.into(),
            kubernetes: super::super::KubernetesSettings::default(),
        };
        let specified = ["53/udp".to_owned(), "8080/tcp".into(), "9000/tcp".into()];
        let given = ServiceSeen {
            namespace: "jobs".into(),
            uid: "u".into(),
            node_ports: BTreeMap::from([("8080/tcp".to_owned(), 30_001), ("53/udp".into(), 30_002)]),
        };
        let told = |settings: &EngineSettings, node: Option<&str>| -> Vec<String> {
            let shown = |port: PortBody| format!("{}:{}{}", port.host, port.exposed, port.path.unwrap_or_default());
            reached(id, &specified, Some(&given), node, settings).into_iter().map(shown).collect()
        };
        assert_eq!(told(&settings, Some("10.0.0.1")), ["10.0.0.1:30002", "10.0.0.1:30001"]);
        assert_eq!(told(&settings, None), Vec::<String>::new(), "it is on no node");
        assert_eq!(reached(id, &specified, None, Some("10.0.0.1"), &settings), [], "it has no Service");
        settings.kubernetes.container_ip = Some(std::net::Ipv4Addr::new(192, 0, 2, 1).into());
        assert_eq!(told(&settings, Some("10.0.0.1")), ["192.0.2.1:30002", "192.0.2.1:30001"]);
        settings.kubernetes.ingress = IngressHost::parse("apps.example.org");
        let path = format!("apps.example.org:80/interactive/{id}");
        assert_eq!(told(&settings, None), [path.clone(), format!("{path}/9000")]);
    }
}
