package api

// Environment describes the one environment that a server owns.
type Environment struct {
	Name        string `json:"name" doc:"Name of the environment" example:"shop"`
	Domain      string `json:"domain" doc:"Preview hosts end in it" example:"localhost"`
	BaggageKey  string `json:"baggage_key" doc:"The baggage member that carries the route" example:"dynamic_route"`
	RouteHeader string `json:"route_header,omitempty" doc:"The alternative header that carries the route; none where it is missing"`
	ProxyURL    string `json:"proxy_url,omitempty" doc:"Where the proxy is reached from the server's machine" example:"http://127.0.0.1:8080"`
}
